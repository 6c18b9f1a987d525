"""Full-vocabulary functions on a GPU beside what else computes them there: time, peak memory and error.

``python -m benchmarks.gpu`` prints every table and a sweep over the sizes of Triton's tiles; nothing else may use the
GPU meanwhile. Times are medians of CUDA events, contenders in turn; memory is ``torch.cuda.max_memory_allocated``
beyond the inputs, gradients included. ``--device cpu`` runs the same at tiny shapes, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from typing import Any

import torch

from benchmarks import measure, vocab_peers
from benchmarks.measure import Goal, Measured, Run, as_fast_as, markdown, share_of_peak, times_floor
from benchmarks.vocab import checked, report
from benchmarks.vocab_cases import DRAWN, HEADS, ONE_HEAD, PAIR, Case, Rates, Work, only_total, per_token, weighted
from benchmarks.vocab_peers import Inputs, Peer, Shape
from kullback import vocab

BACKENDS = ("triton", "eager", "compile")
TOKENS, WORDS, HIDDEN = 8192, 131072, 4096
HALF = torch.bfloat16


def library(wrap: Callable[[Callable[..., Any]], Work], *peers: Peer) -> dict[str, Work]:
    """Peers by name."""
    return {peer.name: wrap(peer.fn) for peer in peers}


def ours(wrap: Callable[..., Work], function: Callable[..., Any], text: str = "", **options: Any) -> dict[str, Work]:
    """One of our functions with every backend."""
    return {f"kullback{text}, {b}": wrap(function, backend=b, **options) for b in BACKENDS}


def at_rate(share: float) -> Goal:
    """A share of what the floor counts."""
    return replace(times_floor(1 / share), text=f"≥ {share:.0%} of the dense rate: ≤ {1 / share:.3g}× the floor")


CASES = (
    Case(
        "Token KL from logits",
        PAIR,
        Shape(TOKENS, WORDS, HALF),
        ours(per_token, vocab.token_kl),
        {
            "naive": per_token(vocab_peers.naive_kl),
            "torch.compile of naive": per_token(vocab_peers.compiled(vocab_peers.naive_kl)),
        }
        | library(only_total, vocab_peers.LIGER_KL_DIV, vocab_peers.LIGER_JSD),
        (times_floor(1.25), as_fast_as("naive", 8), as_fast_as("Liger's JSD", 5)),
    ),
    Case(
        "KL from hidden states and heads",
        HEADS,
        Shape(TOKENS, WORDS, HALF, hidden=HIDDEN),
        ours(weighted, vocab.linear_weighted_kl, ", weights known")
        | ours(per_token, vocab.linear_token_kl, ", any upstream"),
        {"naive": per_token(vocab_peers.naive_head_kl)}
        | library(only_total, vocab_peers.LIGER_CHUNKED, vocab_peers.LIGER_FUSED_LINEAR_JSD),
        (
            at_rate(0.75),
            as_fast_as("Liger's chunked", 1.3),
            as_fast_as("Liger's fused linear", 2.5),
            share_of_peak("naive", 10),
        ),
    ),
    Case(
        "Log-prob and entropy from hidden states and a head",
        replace(ONE_HEAD, make=vocab_peers.one_head_and_entropy),
        Shape(TOKENS, WORDS, HALF, hidden=HIDDEN),
        ours(per_token, vocab.linear_token_logprobs, entropy=True),
        library(per_token, vocab_peers.VERL_KERNEL),
        (as_fast_as("verl's kernel", 1 / 1.1),),
    ),
    Case(
        "Log-prob from hidden states and a head",
        ONE_HEAD,
        Shape(TOKENS, WORDS, HALF, hidden=HIDDEN),
        ours(weighted, vocab.linear_weighted_logprobs, ", weights known")
        | ours(per_token, vocab.linear_token_logprobs, ", any upstream"),
        {"naive": per_token(vocab_peers.naive_head_logprobs)} | library(per_token, vocab_peers.CUT_CROSS_ENTROPY_EXACT),
        (as_fast_as("cut-cross-entropy", 1 / 1.1),),
    ),
    Case(
        "Log-prob and entropy from logits",
        DRAWN,
        Shape(TOKENS, WORDS, HALF),
        ours(per_token, vocab.token_logprobs, entropy=True),
        {
            "naive": per_token(vocab_peers.naive_logprobs),
            "torch.compile of naive": per_token(vocab_peers.compiled(vocab_peers.naive_logprobs)),
        }
        | library(per_token, vocab_peers.TRL_PAIR, vocab_peers.VERL_PAIR),
    ),
)


# --- measuring


def one_run(work: measure.Contender, device: torch.device) -> Run:
    """Time and memory of one run on the device."""
    if device.type != "cuda":
        return measure.one_run(work)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    held = work()
    stop.record()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del held
    return Run(start.elapsed_time(stop) / 1e3, float(peak), 0.0)


def in_turn(works: Mapping[str, measure.Contender], device: torch.device, runs: int) -> dict[str, Measured]:
    """As ``measure.side_by_side``, in this process: a GPU's allocator tells each contender's memory by itself."""
    values: dict[str, Any] = {}
    found: dict[str, list[Run]] = {name: [] for name in works}
    failures = dict.fromkeys(works, "")
    for turn in range(runs + 1):
        for name, work in works.items():
            if failures[name]:
                continue
            try:
                if turn:
                    found[name].append(one_run(work, device))
                else:
                    values[name] = work()[1]
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            if failures[name] and device.type == "cuda":
                torch.cuda.empty_cache()
    return {name: Measured(tuple(found[name]), values.get(name), failures[name]) for name in works}


def rates(shape: Shape, device: torch.device) -> Rates:
    """Of the device, best of several runs; the products at the better of two widths."""
    best = partial(_best, device=device)
    x = torch.ones(1 << (28 if device.type == "cuda" else 20), device=device)
    y = torch.empty_like(x)
    bandwidth = max(2 * x.nbytes / best(lambda: y.copy_(x)), x.nbytes / best(lambda: x.sum()))
    products = [0.0, 0.0, 0.0]
    for words in sorted({min(shape.words, 8192), min(shape.words, 32768)} if shape.hidden else ()):
        sizes = (shape.tokens, shape.hidden), (words, shape.hidden), (shape.tokens, words)
        h, w, g = (torch.randn(size, dtype=shape.dtype, device=device) for size in sizes)
        flops = 2.0 * shape.tokens * shape.hidden * words
        for i, (a, b) in enumerate(((h, w.T), (g, w), (g.T, h))):
            products[i] = max(products[i], flops / best(partial(torch.mm, a, b)))
    return Rates(bandwidth, 2 * x.nbytes / best(lambda: x.clone()), tuple(products) if shape.hidden else ())


def _best(work: Callable[[], object], device: torch.device) -> float:
    return min(one_run(lambda: (work(), None), device).seconds for _ in range(8))


def runs_here(name: str, device: torch.device) -> bool:
    """Whether a contender can run: Triton's needs CUDA."""
    return device.type == "cuda" or not name.endswith("triton")


def case_table(case: Case, device: torch.device, runs: int) -> str:
    """One case, as Markdown."""
    tiny = device.type != "cuda"
    case = replace(case, ours={name: work for name, work in case.ours.items() if runs_here(name, device)})
    case = case.small() if tiny else case
    with device:
        inputs = case.kind.make(case.shape)
    truth = case.kind.truth(inputs)
    speed = rates(case.shape, device)
    works = {name: partial(checked, work, inputs) for name, work in (case.ours | case.others).items()}
    found = in_turn(works, device, runs)
    return report(case, inputs, truth, speed, found, with_goals=not tiny)


# --- tuning

KNOBS: dict[str, tuple[int, ...]] = {
    "BLOCK": (1024, 2048, 4096, 8192, 16384),
    "PROGRAMS": (1024, 2048, 4096, 8192),
    "WARPS": (4, 8, 16, 32),
}
"""Names in ``kullback.vocab.triton_kernels`` that are tried, those of them that it has."""
WORKSPACES = (1 << 28, 1 << 29, 1 << 30, 1 << 31, 1 << 32)


def settings(module: ModuleType) -> Iterator[dict[str, int]]:
    """Every setting of the module's knobs, set while it is yielded, and put back."""
    names = [name for name in KNOBS if hasattr(module, name)]
    before = {name: getattr(module, name) for name in names}
    try:
        for values in product(*(KNOBS[name] for name in names)):
            for name, value in zip(names, values, strict=True):
                setattr(module, name, value)
            yield dict(zip(names, values, strict=True))
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def sweep(module: ModuleType, device: torch.device, runs: int, backend: str = "triton") -> str:
    """Milliseconds of the KL and of log-prob and entropy, forward and backward, at every setting; fastest first."""
    shape = CASES[0].shape if device.type == "cuda" else CASES[0].shape.small()
    with device:
        pair, drawn = vocab_peers.pair(shape), vocab_peers.drawn(shape)
    works: list[tuple[Work, Inputs]] = [
        (per_token(vocab.token_kl, backend=backend), pair),
        (per_token(vocab.token_logprobs, entropy=True, backend=backend), drawn),
    ]
    rows = []
    for setting in settings(module):
        found = in_turn({str(i): partial(work, x) for i, (work, x) in enumerate(works)}, device, runs)
        rows.append((found["0"].seconds, [*map(str, setting.values()), *(_told(x) for x in found.values())]))
    rows.sort(key=lambda row: row[0])
    columns = [*(name for name in KNOBS if hasattr(module, name)), "KL, ms", "log-prob and entropy, ms"]
    return f"### Sizes of Triton's tiles: {shape}\n\n{markdown(columns, [cells for _, cells in rows])}"


def _told(x: Measured) -> str:
    return x.failure or f"{1e3 * x.seconds:.3g}"


def workspaces(device: torch.device, runs: int) -> str:
    """Milliseconds and memory of the fused KL at several workspaces."""
    shape = CASES[1].shape if device.type == "cuda" else CASES[1].shape.small()
    with device:
        x = vocab_peers.heads(shape)
    forms: dict[str, tuple[Callable[..., Work], Callable[..., Any]]] = {
        "weights known": (weighted, vocab.linear_weighted_kl),
        "any upstream": (per_token, vocab.linear_token_kl),
    }
    works = {
        (text, size): partial(wrap(function, workspace=size), x)
        for text, (wrap, function) in forms.items()
        for size in WORKSPACES
    }
    found = in_turn({f"{text} {size}": work for (text, size), work in works.items()}, device, runs)
    rows = [
        [text, f"{size >> 20}", _told(found[f"{text} {size}"]), f"{found[f'{text} {size}'].peak / measure.MB:.0f}"]
        for text, size in works
    ]
    return f"### Workspaces: {shape}\n\n{markdown(('form', 'workspace, MiB', 'ms', 'peak, MB'), rows)}"


# --- all of it


def tables(device: torch.device, runs: int) -> Iterator[str]:
    """Each table as Markdown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, tiny shapes: only shows that it runs"
    yield f"## Full vocabulary on one device: {name}, torch {torch.__version__}"
    for case in CASES:
        torch.manual_seed(0)
        yield case_table(case, device, runs)
        gc.collect()
        torch.cuda.empty_cache()
    yield workspaces(device, runs)
    if device.type == "cuda" and find_spec("triton"):
        from kullback.vocab import triton_kernels

        yield sweep(triton_kernels, device, runs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--runs", type=int, default=10)
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device is here: run this on a machine with one, or see that it runs with --device cpu.")
        sys.exit(2)
    for found in tables(torch.device(asked.device), asked.runs if asked.device == "cuda" else 1):
        print(found, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
