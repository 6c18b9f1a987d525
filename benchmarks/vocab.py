"""Full-vocabulary functions beside what else computes them: time, peak memory and error, in one run.

``python -m benchmarks.vocab [--quick] [CASE …]``. Times are medians of at least five runs made in turn; memory is the
peak of the resident set (VmHWM of /proc/self/status, set back before every run by /proc/self/clear_refs) beyond the
inputs, gradients included. Floors are the bytes that must move over the memory bandwidth, or the products that must
be made over the rates of torch's own matmul, both measured in the same run. ``vocab_peers`` says how to have the
other libraries in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks import vocab_peers as peers
from benchmarks.measure import (
    MB,
    Goal,
    Measured,
    Results,
    as_fast_as,
    beyond_gradient,
    markdown,
    share_of_peak,
    times_floor,
    within_nats,
)
from benchmarks.vocab_peers import Inputs, Shape, drawn, heads, normal, one_head, pair
from kullback import vocab

CHECKED_ROWS = 64
PICTURE = Path("docs/pictures/vocab_cost")


# --- contenders

Work = Callable[[Inputs], tuple[Any, tuple[Tensor, ...]]]
"""Inputs → gradients, and values of every token."""


def per_token(function: Callable[..., Any], **options: Any) -> Work:
    """One value of every token or more, whatever gradient comes to them."""

    def work(x: Inputs) -> tuple[Any, tuple[Tensor, ...]]:
        found = function(*x.args, **options)
        values = found if isinstance(found, tuple) else (found,)
        upstream = tuple(g.to(value.dtype) for g, value in zip(x.upstream, values, strict=True))
        return torch.autograd.grad(values, x.leaves, upstream), tuple(value.detach() for value in values)

    return work


def weighted(function: Callable[..., Any], **options: Any) -> Work:
    """A sum whose weights are known, and the value of every token."""

    def work(x: Inputs) -> tuple[Any, tuple[Tensor, ...]]:
        total, values, *_ = function(*x.args, x.upstream[0], **options)
        return torch.autograd.grad(total, x.leaves), (values,)

    return work


def only_total(function: Callable[..., Any]) -> Work:
    """A scalar without values of tokens."""
    return lambda x: (torch.autograd.grad(function(*x.args), x.leaves), ())


KL_OURS: dict[str, Work] = {
    "kullback, eager": per_token(vocab.token_kl, backend="eager"),
    "kullback, compile": per_token(vocab.token_kl, backend="compile"),
}
KL_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_kl),
    "F.kl_div": per_token(peers.torch_kl_div),
    "torch.distributions": per_token(peers.torch_distributions),
    "torch.compile of naive": per_token(peers.compiled(peers.naive_kl)),
    "naive, checkpointed": per_token(peers.checkpointed(peers.naive_kl)),
}
LOGPROB_OURS: dict[str, Work] = {
    "kullback, eager": per_token(vocab.token_logprobs, entropy=True, backend="eager"),
    "kullback, compile": per_token(vocab.token_logprobs, entropy=True, backend="compile"),
}
LOGPROB_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_logprobs),
    "torch.compile of naive": per_token(peers.compiled(peers.naive_logprobs)),
    peers.TRL_PAIR.name: per_token(peers.TRL_PAIR.fn),
    peers.VERL_PAIR.name: per_token(peers.VERL_PAIR.fn),
}
HEAD_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_head_kl),
    peers.LIGER_CHUNKED.name: only_total(peers.LIGER_CHUNKED.fn),
}
ONE_HEAD_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_head_logprobs),
    peers.CUT_CROSS_ENTROPY.name: per_token(peers.CUT_CROSS_ENTROPY.fn),
}


def head_kl(form: str, precision: str = "float32", backend: str = "eager") -> Work:
    """One of our two fused forms."""
    if form == "weighted":
        return weighted(vocab.linear_weighted_kl, precision=precision, backend=backend)
    return per_token(vocab.linear_token_kl, precision=precision, backend=backend)


# --- floors


@dataclass(frozen=True)
class Rates:
    """What the machine does at best.

    Attributes:
        bandwidth: bytes a second, the better of reading and of copying.
        fresh: bytes a second of a copy into memory not used before.
        products: flops a second of h·Wᵀ, G·W and Gᵀ·h, where there are heads.
    """

    bandwidth: float
    fresh: float
    products: tuple[float, ...] = ()

    def __str__(self) -> str:
        rates = ", ".join(f"{rate / 1e12:.3f}" for rate in self.products)
        told = f"memory {self.bandwidth / 1e9:.1f} GB/s ({self.fresh / 1e9:.1f} into fresh pages)"
        return told + (f"; h·Wᵀ, G·W, Gᵀ·h at {rates} TFLOP/s" if rates else "")


def rates(shape: Shape, numbers: int) -> Rates:
    """The best of several runs of each; so many numbers are copied."""
    x = torch.ones(numbers)
    y = torch.empty_like(x)
    works: tuple[Callable[[], object], ...] = (lambda: y.copy_(x), lambda: x.sum(), lambda: x.clone())
    copy, read, fresh = (min(measure.timed(work) for _ in range(8)) for work in works)
    products = _products(shape) if shape.hidden else ()
    return Rates(max(2 * x.nbytes / copy, x.nbytes / read), 2 * x.nbytes / fresh, products)


def _products(shape: Shape) -> tuple[float, ...]:
    best = [0.0, 0.0, 0.0]
    for words in sorted({min(shape.words, 4096), min(shape.words, 16384)}):
        h, w, g = (
            normal(*size, like=shape)
            for size in ((shape.tokens, shape.hidden), (words, shape.hidden), (shape.tokens, words))
        )
        flops = 2.0 * shape.tokens * shape.hidden * words
        for i, (a, b) in enumerate(((h, w.T), (g, w), (g.T, h))):
            best[i] = max(best[i], flops / min(measure.timed(partial(torch.mm, a, b)) for _ in range(4)))
    return tuple(best)


def moved(times: int) -> Callable[[Shape, Rates], float]:
    """Seconds to move the logits so many times."""
    return lambda shape, rates: times * shape.tokens * shape.words * shape.dtype.itemsize / rates.bandwidth


def multiplied(models: int) -> Callable[[Shape, Rates], float]:
    """Seconds for so many models' logits, each once, and the gradients of one model's hidden states and head."""

    def seconds(shape: Shape, rates: Rates) -> float:
        logits, to_hidden, to_weight = rates.products
        return 2.0 * shape.tokens * shape.hidden * shape.words * (models / logits + 1 / to_hidden + 1 / to_weight)

    return seconds


# --- truth, of the first rows, in float64


def pair_truth(x: Inputs) -> tuple[Tensor, ...]:
    return (peers.exact_kl(*(z[:CHECKED_ROWS].detach() for z in x.args)),)


def drawn_truth(x: Inputs) -> tuple[Tensor, ...]:
    logits, tokens = (z[:CHECKED_ROWS].detach() for z in x.args)
    return peers.naive_logprobs(logits.double(), tokens)


def heads_truth(x: Inputs) -> tuple[Tensor, ...]:
    hidden, weight, ref_hidden, ref_weight = x.args
    return (peers.exact_kl(exact_logits(hidden, weight), exact_logits(ref_hidden, ref_weight)),)


def one_head_truth(x: Inputs) -> tuple[Tensor, ...]:
    hidden, weight, tokens = x.args
    return peers.naive_logprobs(exact_logits(hidden, weight), tokens[:CHECKED_ROWS])[: len(x.upstream)]


def exact_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden[:CHECKED_ROWS].detach().double() @ weight.detach().double().T


# --- cases


@dataclass(frozen=True)
class Kind:
    """What cases of one kind share.

    Attributes:
        make: the inputs.
        truth: values of the first rows.
        relative: whether an error is relative to the truth, or in nats.
        floor: seconds that the work takes at least.
        counts: what the floor counts.
    """

    make: Callable[[Shape], Inputs]
    truth: Callable[[Inputs], tuple[Tensor, ...]]
    relative: bool
    floor: Callable[[Shape, Rates], float]
    counts: str


PAIR = Kind(pair, pair_truth, True, moved(5), "logits read four times, gradient written once")
DRAWN = Kind(drawn, drawn_truth, False, moved(3), "logits read twice, gradient written once")
HEADS = Kind(heads, heads_truth, True, multiplied(2), "8·N·H·V flops: two models' logits, two gradients")
ONE_HEAD = Kind(one_head, one_head_truth, False, multiplied(1), "6·N·H·V flops: logits, two gradients")


@dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
        title: what is computed, forward and backward.
        kind: its inputs, truth and floor.
        shape: its size.
        ours, others: contenders.
        goals: for ours.
    """

    title: str
    kind: Kind
    shape: Shape
    ours: dict[str, Work]
    others: dict[str, Work]
    goals: tuple[Goal, ...] = ()


FULL, HALF = torch.float32, torch.bfloat16
CASES: dict[str, Case] = {
    "kl_float32": Case(
        "Token KL from logits",
        PAIR,
        Shape(2048, 131072, FULL),
        KL_OURS,
        KL_PEERS,
        (as_fast_as("naive", 4), as_fast_as("torch.compile of naive", 1.2), beyond_gradient(8)),
    ),
    "kl_bfloat16": Case(
        "Token KL from logits",
        PAIR,
        Shape(2048, 131072, HALF),
        KL_OURS,
        KL_PEERS,
        (as_fast_as("naive", 8), share_of_peak("naive", 10)),
    ),
    "kl_apart": Case(
        "Token KL from logits, of models half a nat apart",
        PAIR,
        Shape(512, 131072, FULL, noise=1.0),
        KL_OURS,
        {name: KL_PEERS[name] for name in ("naive", "torch.compile of naive")},
    ),
    "logprobs_float32": Case(
        "Log-prob and entropy from logits",
        DRAWN,
        Shape(2048, 32768, FULL),
        LOGPROB_OURS,
        LOGPROB_PEERS,
        (as_fast_as("TRL's pair", 3.5), as_fast_as("verl's pair", 6.5), as_fast_as("torch.compile of naive", 1.4)),
    ),
    "logprobs_bfloat16": Case(
        "Log-prob and entropy from logits",
        DRAWN,
        Shape(2048, 131072, HALF),
        LOGPROB_OURS,
        LOGPROB_PEERS,
        (as_fast_as("TRL's pair", 5), within_nats(1e-5)),
    ),
    "head_bfloat16": Case(
        "KL from hidden states and heads, logits rounded to bfloat16",
        HEADS,
        Shape(2048, 131072, HALF, hidden=1024),
        {
            "kullback, weights known": head_kl("weighted", "input"),
            "kullback, weights known, compile": head_kl("weighted", "input", "compile"),
            "kullback, any upstream, compile": head_kl("token", "input", "compile"),
        },
        HEAD_PEERS,
        (as_fast_as("naive", 2.2), share_of_peak("naive", 12), times_floor(1.5)),
    ),
    "head_float32": Case(
        "KL from hidden states and heads",
        HEADS,
        Shape(2048, 131072, FULL, hidden=1024),
        {
            "kullback, weights known": head_kl("weighted"),
            "kullback, weights known, compile": head_kl("weighted", backend="compile"),
        },
        {"naive": HEAD_PEERS["naive"]},
        (as_fast_as("naive", 1.2), share_of_peak("naive", 8)),
    ),
    "head_forms": Case(
        "KL from hidden states and heads, every form",
        HEADS,
        Shape(1024, 32768, HALF, hidden=1024),
        {
            f"kullback, {text}, {precision} logits, {backend}": head_kl(form, precision, backend)
            for form, text in (("weighted", "weights known"), ("token", "any upstream"))
            for precision in ("float32", "input")
            for backend in ("eager", "compile")
        },
        HEAD_PEERS,
    ),
    "head_forms_float32": Case(
        "KL from hidden states and heads, every form",
        HEADS,
        Shape(1024, 32768, FULL, hidden=1024),
        {
            f"kullback, {text}, {backend}": head_kl(form, "float32", backend)
            for form, text in (("weighted", "weights known"), ("token", "any upstream"))
            for backend in ("eager", "compile")
        },
        HEAD_PEERS,
    ),
    "head_logprobs": Case(
        "Log-prob from hidden states and a head",
        ONE_HEAD,
        Shape(1024, 32768, HALF, hidden=1024),
        {
            "kullback, weights known, float32 logits": weighted(vocab.linear_weighted_logprobs),
            "kullback, weights known": weighted(vocab.linear_weighted_logprobs, precision="input"),
            "kullback, any upstream": per_token(vocab.linear_token_logprobs, precision="input"),
        },
        ONE_HEAD_PEERS,
    ),
}


def case_table(name: str, quick: bool = False) -> str:
    """One case, as Markdown."""
    case = CASES[name]
    shape = case.shape.small() if quick else case.shape
    inputs = case.kind.make(shape)
    truth = case.kind.truth(inputs)
    runs, extra, threads = (1, 0, 1) if quick else (5, 5, measure.processors())
    speed = measure.in_a_fork(lambda: rates(shape, 1 << (22 if quick else 26)), threads)
    works = case.ours | case.others
    found = measure.side_by_side(
        {name: partial(checked, work, inputs) for name, work in works.items()}, runs, extra, threads
    )
    return report(case, shape, inputs, truth, speed, found, with_goals=not quick)


def report(
    case: Case,
    shape: Shape,
    inputs: Inputs,
    truth: tuple[Tensor, ...],
    speed: Rates,
    found: dict[str, Measured],
    with_goals: bool,
) -> str:
    """The tables of a case."""
    results = Results(
        found,
        tuple(case.ours),
        {name: _error(measured, truth, case.kind.relative) for name, measured in found.items()},
        case.kind.floor(shape, speed),
        sum(leaf.nbytes for leaf in inputs.leaves),
    )
    error = "relative to float64" if case.kind.relative else "in nats, against float64"
    lines = [
        f"### {case.title}: {shape}",
        f"Floor {1e3 * results.floor:.3g} ms ({case.kind.counts}; {speed}). "
        f"The gradient takes {results.gradient / MB:.0f} MB. Error {error}.",
        measure.table(results),
    ]
    if case.goals and with_goals:
        lines.append(measure.goals(case.goals, results))
    return "\n\n".join(lines)


def checked(work: Work, inputs: Inputs) -> tuple[Any, list[Any]]:
    """What is held, and the values of the first rows."""
    held, values = work(inputs)
    return held, [value[:CHECKED_ROWS].double().cpu().numpy() for value in values]


def _error(measured: Measured, truth: tuple[Tensor, ...], relative: bool) -> float:
    """Largest over the checked rows; nan without values."""
    if not measured.value:
        return float("nan")
    pairs = [(value, exact.cpu().numpy()) for value, exact in zip(measured.value, truth, strict=True)]
    return float(max(np.max(abs(value - exact) / (abs(exact) if relative else 1.0)) for value, exact in pairs))


# --- small KLs


def accuracy(quick: bool = False) -> str:
    """Errors of small KLs from logits in float32, and from hidden states and heads in bfloat16, as Markdown."""
    return f"{logits_accuracy(quick)}\n\n{head_accuracy(quick)}"


def logits_accuracy(quick: bool) -> str:
    """Largest relative error, and how many rows are negative."""
    shape = Shape(64, 4096 if quick else 131072, FULL)
    kls = (5e-7, 5e-6, 5e-5, 5e-4, 5e-3)
    works = {name: work for name, work in (KL_OURS | KL_PEERS).items() if name != "naive, checkpointed"}
    cells: dict[str, list[str]] = {name: [] for name in works}
    for kl in kls:
        x = pair(replace(shape, noise=(2 * kl) ** 0.5))
        (truth,) = pair_truth(x)
        for name, work in works.items():
            ((value,), negative) = work(x)[1], ""
            if bool((value < 0).any()):
                negative = f", {int((value < 0).sum())} of {len(value)} negative"
            cells[name].append(f"{float(((value - truth) / truth).abs().max()):.1e}{negative}")
    title = f"### Small KLs from logits: {shape}"
    text = "Largest relative error over the tokens. Goal: at most 1e-4, no row negative."
    rows = [[name, *values] for name, values in cells.items()]
    return f"{title}\n\n{text}\n\n{markdown(('true KL, nats', *(f'{kl:g}' for kl in kls)), rows)}"


def head_accuracy(quick: bool) -> str:
    """Relative errors of the mean, of the worst token, and of the gradient to the hidden states."""
    shape = Shape(128, 4096 if quick else 32768, HALF, hidden=1024)
    works: dict[str, Work] = {
        "kullback, float32 logits": head_kl("token"),
        "kullback, logits rounded by choice": head_kl("token", "input"),
    } | HEAD_PEERS
    columns, cells = ["true mean KL, nats"], {name: [name] for name in works}
    for kl in (6e-5, 5e-4, 4e-3, 4e-2):
        x = heads(replace(shape, noise=(2 * kl) ** 0.5))
        x = replace(x, upstream=(torch.full((shape.tokens,), 1 / shape.tokens),))
        exact = [z.detach().double() for z in x.args]
        exact[0].requires_grad_()
        truth = peers.exact_kl(exact[0] @ exact[1].T, exact[2] @ exact[3].T)
        (gradient,) = torch.autograd.grad(truth.mean(), exact[0])
        truth = truth.detach()
        columns.append(f"{float(truth.mean()):.1e}")
        for name, work in works.items():
            (to_hidden, _), values = work(x)
            off = float((to_hidden.double() - gradient).norm() / gradient.norm())
            cells[name].append(" / ".join([*_value_errors(values, truth), f"{off:.2%}"]))
    text = "Relative errors: of the mean KL / of the worst token / of the gradient to the hidden states (norm)."
    goal = "Goal: the worst token at most 2% off at 6e-5."
    title = f"### Small KLs from hidden states and heads: {shape}"
    return f"{title}\n\n{text} {goal}\n\n{markdown(columns, list(cells.values()))}"


def _value_errors(values: tuple[Tensor, ...], truth: Tensor) -> list[str]:
    if not values:
        return ["–", "–"]
    (value,) = (v.double() for v in values)
    return [f"{float(value.mean() / truth.mean() - 1):+.2%}", f"{float((value / truth - 1).abs().max()):.2%}"]


# --- growth

GROWTH = Shape(512, 16384, FULL, hidden=256)
GROWING: dict[str, tuple[Callable[[Shape], Inputs], Work]] = {
    "naive, from logits": (pair, KL_PEERS["naive"]),
    "kullback, from logits": (pair, KL_OURS["kullback, eager"]),
    "kullback, from hidden states": (heads, head_kl("token")),
}
AXES: dict[str, Callable[[int], Shape]] = {
    "tokens": lambda n: replace(GROWTH, tokens=n),
    "words": lambda n: replace(GROWTH, words=n),
}
SIZES = {"tokens": (32, 100, 320, 1000, 3200), "words": (1280, 4096, 12800, 40960, 128000)}


def growth(quick: bool = False) -> str:
    """Time against tokens and against words, forward and backward, as Markdown; drawn to ``PICTURE`` unless quick."""
    sizes = {axis: at[: 3 if quick else None] for axis, at in SIZES.items()}
    found = {
        axis: {name: [_seconds(name, AXES[axis](n)) for n in at] for name in GROWING} for axis, at in sizes.items()
    }
    lines = [
        f"### Growth: {GROWTH} where the other grows",
        "Milliseconds forward and backward, and the power of the size.",
    ]
    for axis, at in sizes.items():
        rows = [
            [name, *(f"{1e3 * s:.3g}" for s in seconds), f"{np.polyfit(np.log(at), np.log(seconds), 1)[0]:.2f}"]
            for name, seconds in found[axis].items()
        ]
        lines.append(markdown((axis, *(f"{n:,}" for n in at), "power"), rows))
    if not quick:
        measure.draw_growth(PICTURE, sizes, found)
        lines.append(f"![Time against tokens and words]({PICTURE.relative_to('docs')}.svg)")
    return "\n\n".join(lines)


def _seconds(name: str, shape: Shape) -> float:
    make, work = GROWING[name]
    inputs = make(shape)
    return measure.median_seconds(lambda: work(inputs), 9)


# --- all of it


def _forked(part: Callable[[bool], str], quick: bool) -> str:
    return str(measure.in_a_fork(lambda: part(quick), 1 if quick else measure.processors()))


PARTS: dict[str, Callable[[bool], str]] = {
    **{name: partial(case_table, name) for name in CASES},
    "accuracy": partial(_forked, accuracy),
    "growth": partial(_forked, growth),
}


def table(*arguments: str) -> str:
    """What the command prints, from a process that has not used threads."""
    command = [sys.executable, "-m", "benchmarks.vocab", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vocab", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small shapes: shows that it runs, not how fast")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    measure.load_compiler()
    torch.set_num_threads(1)
    for name in asked.parts or PARTS:
        torch.manual_seed(0)
        print(PARTS[name](asked.quick), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
