"""What drawing, scoring and workers cost: ``python -m benchmarks engines [speed] [vllm] [workers] [model] [--ray]``.

Processor seconds wherever that is possible: other work on the machine disturbs them less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from kullback.models import LanguageModel, Randomness, Sampling, load, score

PROMPT = 16
"""Tokens of every prompt."""


@dataclass(frozen=True)
class Size:
    """A Llama with random weights, and how it is asked."""

    hidden: int
    layers: int
    rows: int
    new: int

    @property
    def tokens(self) -> int:
        """Tokens that are drawn."""
        return self.rows * self.new


FITTED = (
    Size(64, 2, 8, 16),
    Size(64, 8, 8, 16),
    Size(128, 4, 32, 16),
    Size(256, 4, 8, 32),
    Size(256, 8, 32, 16),
    Size(512, 4, 16, 16),
    Size(512, 8, 32, 8),
    Size(512, 8, 32, 16),
)
HELD_OUT = (Size(384, 6, 24, 24), Size(768, 6, 24, 16))
"""Not used in the fit: another width, depth, batch and length each; the second is wider than any of them."""


def model_of(size: Size, seed: int = 0) -> LanguageModel:
    """The model, with the tokenizer of the built-in pair."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = load("builtin:base")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=size.hidden,
        intermediate_size=4 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LanguageModel("random", LlamaForCausalLM(config).eval(), base.tokenizer)


def parameters(model: LanguageModel) -> int:
    """Weights that every token is multiplied by: all but the embeddings."""
    every = sum(int(p.numel()) for p in model.model.parameters())
    return every - int(model.model.get_input_embeddings().weight.numel())


def processor(call: Callable[[], object], runs: int = 2) -> float:
    """Processor seconds at the least, the first run left out: what else runs can only add to them."""
    call()
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return min(seconds)


def prompts_of(size: Size) -> list[list[int]]:
    """Token ids."""
    found: list[list[int]] = np.random.default_rng(0).integers(3, 500, (size.rows, PROMPT)).tolist()
    return found


def drawing(model: LanguageModel, size: Size) -> float:
    """Seconds of drawing."""
    rows = [(0, row, 0) for row in range(size.rows)]
    prompts = prompts_of(size)
    return processor(
        lambda: model.sample(prompts, Sampling(), max_new_tokens=size.new, randomness=Randomness(0).of(rows))
    )


def scoring(model: LanguageModel, other: LanguageModel, size: Size) -> float:
    """Seconds of scoring under both."""
    prompts = prompts_of(size)
    drawn = [[5] * size.new] * size.rows
    return processor(lambda: score(model, other, prompts, drawn, vocab=512))


def generating(model: LanguageModel, size: Size) -> float:
    """Seconds of transformers' own `generate`."""
    tokens = torch.tensor(prompts_of(size))
    options: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": size.new, "pad_token_id": 0}
    options |= {"attention_mask": torch.ones_like(tokens)}
    return processor(lambda: model.model.generate(tokens, **options))


def speed() -> Iterator[str]:
    """Tokens a processor second, beside transformers' `generate`, which draws alike and scores nothing."""
    yield "| hidden, layers | sequences × tokens | drawing | `generate` | scoring by both, exact KLs |"
    yield "|---|---|---:|---:|---:|"
    for size in (FITTED[0], FITTED[4], FITTED[7]):
        model, other = model_of(size), model_of(size, 1)
        times = (drawing(model, size), generating(model, size), scoring(model, other, size))
        cells = " | ".join(f"{size.tokens / seconds:,.0f}" for seconds in times)
        yield f"| {size.hidden}, {size.layers} | {size.rows} × {size.new} | {cells} |"


VLLM = """
import json, sys, time
import numpy as np
from vllm import LLM, SamplingParams
folder, rows, prompt, new = sys.argv[1], *map(int, sys.argv[2:])
engine = LLM(model=folder, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_prefix_caching=False)
prompts = [{"prompt_token_ids": one} for one in np.random.default_rng(0).integers(3, 500, (rows, prompt)).tolist()]
law = SamplingParams(temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False, logprobs=0)
seconds = []
for _ in range(3):
    started = time.process_time()
    engine.generate(prompts, law, use_tqdm=False)
    seconds.append(time.process_time() - started)
print(json.dumps(min(seconds[1:])))
"""


def vllm() -> Iterator[str]:
    """The same by vLLM's offline engine alone, in the Python that KULLBACK_VLLM names, with its log-probs."""
    python = os.environ.get("KULLBACK_VLLM", ".venv-vllm/bin/python")
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    yield "| hidden, layers | sequences × tokens | drawing | vLLM |"
    yield "|---|---|---:|---:|"
    for size in (FITTED[4], FITTED[7]):  # vLLM has no attention for heads of 16
        model = model_of(size)
        with tempfile.TemporaryDirectory() as folder:
            model.model.save_pretrained(folder)
            asked = [python, "-c", VLLM, folder, *map(str, (size.rows, PROMPT, size.new))]
            done = subprocess.run(asked, env={**os.environ, **env}, stdout=subprocess.PIPE, check=True, text=True)
        seconds = (drawing(model, size), float(done.stdout.splitlines()[-1]))
        cells = " | ".join(f"{size.tokens / each:,.0f}" for each in seconds)
        yield f"| {size.hidden}, {size.layers} | {size.rows} × {size.new} | {cells} |"


# What it costs, as a formula --------------------------------------------------------------------------------------


def features(size: Size, weights: int) -> tuple[list[float], list[float]]:
    """Of drawing: layer calls, and multiplications; of scoring likewise, for two models."""
    read = size.rows * (PROMPT + size.new)
    draw = [float(size.layers * size.new), float((read - size.rows) * weights)]
    return draw, [2.0 * size.layers, 2.0 * read * weights]


def model() -> Iterator[str]:
    """The coefficients, and what they say of runs that they were not fitted to."""
    rows = [_measured(size) for size in (*FITTED, *HELD_OUT)]
    fitted = rows[: len(FITTED)]
    found = []
    for at, what in enumerate(("drawing", "scoring")):
        x = np.array([row[at][0] for row in fitted])
        y = np.array([row[at][1] for row in fitted])
        # Relative errors count alike, whatever a run takes.
        (call, multiplication), _ = nnls(x / y[:, None], np.ones(len(y)))
        found.append((call, multiplication))
        yield f"{what}: {call * 1e6:.0f} µs a layer call, {multiplication * 1e12:.1f} ps a weight and token"
    yield ""
    yield "| hidden, layers, sequences × tokens | drawing s | predicted | scoring s | predicted |"
    yield "|---|---:|---:|---:|---:|"
    for size, row in zip((*FITTED, *HELD_OUT), rows, strict=True):
        said = [float(np.dot(found[at], row[at][0])) for at in (0, 1)]
        mark = " (held out)" if size in HELD_OUT else ""
        cells = " | ".join(f"{row[at][1]:.3f} | {said[at]:.3f}" for at in (0, 1))
        yield f"| {size.hidden}, {size.layers}, {size.rows} × {size.new}{mark} | {cells} |"


def _measured(size: Size) -> list[tuple[list[float], float]]:
    one, other = model_of(size), model_of(size, 1)
    draw, read = features(size, parameters(one))
    return [(draw, drawing(one, size)), (read, scoring(one, other, size))]


# Workers ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, time, resource
import kullback as kb
options = json.loads(sys.argv[1])
ticks = []
def heard(done):
    ticks.append((time.perf_counter(), done.sequences))
started = time.perf_counter()
found = kb.compare(on_progress=heard, **options)
ended = time.perf_counter()
kids, me = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
first = next(t for t, n in ticks if n > ticks[0][1])
print(json.dumps({
    "whole": ended - started, "until first": first - ticks[0][0], "steady": ticks[-1][0] - first,
    "own": me.ru_utime + me.ru_stime, "workers": kids.ru_utime + kids.ru_stime, "peak": kids.ru_maxrss / 1024,
    "tokens": found.tokens, "sequences": len(found.rollouts)}))
"""


def run(options: dict[str, Any]) -> dict[str, float]:
    """One comparison in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(options)], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def workers(counts: Sequence[int], *, ray: bool) -> Iterator[str]:
    """The same comparison by 1, 2 and 4 workers."""
    yield f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; 32 batches of 32 sequences of 32 tokens."
    yield ""
    yield "| engine | workers | until the first batch, s | the other 31, s | workers' processor s | peak MB of one |"
    yield "|---|---:|---:|---:|---:|---:|"
    task = {"prompts": [f"One day {name}" for name in ("Ann", "Bob", "Cy", "Di")], "samples": 256}
    task |= {"max_new_tokens": 32, "batch_size": 32}
    for engine in ("local", "ray") if ray else ("local",):
        for count in counts:
            found = run({**task, "engine": engine, "workers": count})
            # Ray's processes are not children that are waited for.
            own = f"{found['workers']:.1f} | {found['peak']:.0f}" if engine == "local" else "– | –"
            yield f"| {engine} | {count} | {found['until first']:.1f} | {found['steady']:.1f} | {own} |"
    yield ""
    yield _bytes(task)


def _bytes(task: dict[str, Any]) -> str:
    """What a token takes on the way and on the disk."""
    from kullback import compare
    from kullback.jobs.engines import shards

    sizes: list[int] = []
    packed = shards.Shards.commit

    def commit(self: shards.Shards, number: int, shard: bytes) -> None:
        sizes.append(len(shard))
        packed(self, number, shard)

    shards.Shards.commit = commit  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(workers=1, output=folder, **{**task, "samples": 32})
            file = (Path(folder) / "rollouts.parquet").stat().st_size
    finally:
        shards.Shards.commit = packed  # type: ignore[method-assign]
    memory = sum(
        getattr(row, name).nbytes
        for row in found.rollouts
        for name in ("logprobs", "ref_logprobs", "token_kl", "ref_mass", "state", "deviation", "mask")
        if getattr(row, name) is not None
    )
    each = [f"{size / found.tokens:.0f}" for size in (sum(sizes), file, memory)]
    return f"Bytes a token: {each[0]} of a shard, {each[1]} of rollouts.parquet, {each[2]} in the driver's arrays."


def main(arguments: Sequence[str]) -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["speed", "workers", "model"])
    parser.add_argument("--ray", action="store_true", help="Ray's workers too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "speed": speed,
        "vllm": vllm,
        "workers": lambda: workers((1, 2, 4), ray=given.ray),
        "model": model,
    }
    for name in given.parts:
        print(f"## {name}\n", flush=True)
        for line in parts[name]():
            print(line, flush=True)
        print()
