"""llama.cpp's server in this process, in float32 and without flash attention, whose arithmetic is of half precision."""

from __future__ import annotations

import argparse
import threading

import xllamacpp

asked = argparse.ArgumentParser()
asked.add_argument("--model", required=True)
asked.add_argument("--host", help="always 127.0.0.1")
asked.add_argument("--port", type=int, required=True)
options = asked.parse_args()

params = xllamacpp.CommonParams()
params.model.path = options.model
params.port = options.port
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 1024, 4, 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(params)
threading.Event().wait()
