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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure, vocab_accuracy
from benchmarks import vocab_peers as peers
from benchmarks.measure import MB, Measured, Results, markdown
from benchmarks.vocab_cases import (
    CASES,
    CHECKED_ROWS,
    FULL,
    HALF,
    HEAD_PEERS,
    KL_OURS,
    KL_PEERS,
    Case,
    Rates,
    Work,
    head_kl,
    pair_truth,
    rates,
)
from benchmarks.vocab_peers import Inputs, Shape, heads, pair

PICTURE = Path("docs/pictures/vocab_cost")


def case_table(name: str, quick: bool = False) -> str:
    """One case, as Markdown."""
    case = CASES[name].small() if quick else CASES[name]
    inputs = case.kind.make(case.shape)
    truth = case.kind.truth(inputs)
    runs, extra, threads = (1, 0, 1) if quick else (5, 5, measure.processors())
    speed = measure.in_a_fork(lambda: rates(case.shape, 1 << (22 if quick else 26)), threads)
    works = case.ours | case.others
    found = measure.side_by_side(
        {name: partial(checked, work, inputs) for name, work in works.items()}, runs, extra, threads
    )
    return report(case, inputs, truth, speed, found, with_goals=not quick)


def report(
    case: Case,
    inputs: Inputs,
    truth: tuple[Tensor, ...],
    speed: Rates,
    found: dict[str, Measured],
    *,
    with_goals: bool,
) -> str:
    """The tables of a case."""
    results = Results(
        found,
        tuple(case.ours),
        {name: _error(measured, truth, case.kind.relative) for name, measured in found.items()},
        case.kind.floor(case.shape, speed),
        sum(leaf.nbytes for leaf in inputs.leaves),
    )
    error = "relative to float64" if case.kind.relative else "in nats, against float64"
    lines = [
        f"### {case.title}: {case.shape}",
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
        "kullback, logits rounded by choice": head_kl("token", "bfloat16"),
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


def _real_pair(quick: bool) -> str:
    from benchmarks import vocab_real  # it loads transformers, which no other part needs

    return vocab_real.table(quick)


PARTS: dict[str, Callable[[bool], str]] = {
    **{name: partial(case_table, name) for name in CASES},
    "accuracy": partial(_forked, accuracy),
    "shared_accuracy": partial(_forked, vocab_accuracy.table),
    "real_pair": _real_pair,
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
