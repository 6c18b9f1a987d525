"""Log-probs of words that the asker chooses, place by place: vLLM's ``/inference/v1/generate``, from 0.32 on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling
from kullback.models.servers.client import RefusedError
from kullback.models.servers.dialects import law_of

PATH = "/inference/v1/generate"
"""Beside the API, not below /v1. It needs the V2 model runner (VLLM_USE_V2_MODEL_RUNNER=1), which needs Triton."""

CHOSEN = 128
"""Words a place that are chosen: those that the other side finds most likely."""

ABOVE = 1e-3
"""How far above 0 rounding may leave a log-prob."""


def choosing(model: str, tokens: Tokens, words: Sequence[Sequence[int]], start: int) -> tuple[str, Mapping[str, Any]]:
    """How to ask for log-probs of so many words at each token's place, from `start` on."""
    sampling = {
        **law_of(Sampling()),
        "max_tokens": 1,
        "prompt_logprob_token_ids": [list(map(int, row)) for row in words],
        "prompt_logprob_start": start - 1,
    }
    return PATH, {"model": model, "token_ids": list(tokens), "sampling_params": sampling}


def read_chosen(answer: Mapping[str, Any], shape: tuple[int, int]) -> Float64:
    """The log-probs, (places, words).

    Raises:
        RefusedError: the server did not score them.
        InputError: what came is no such table.
    """
    written = answer.get("prompt_token_id_logprobs")
    if not isinstance(written, str):
        raise RefusedError("it does not score chosen words", 400)
    try:
        found = np.load(BytesIO(base64.b64decode(written, validate=True)), allow_pickle=False)
    except (ValueError, EOFError, OSError, binascii.Error):
        raise InputError("prompt_token_id_logprobs is no NumPy file in base64") from None
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind != "f":
        raise InputError(f"prompt_token_id_logprobs is no table of {shape[0]} places and {shape[1]} words")
    if np.isnan(found).any() or (found > ABOVE).any():
        raise InputError(f"a log-prob of a chosen word is {np.nanmax(found):g}, but a log-prob is at most 0")
    return np.minimum(found.astype(np.float64), 0.0)
