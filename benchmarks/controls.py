"""Token values against plain Rao-Blackwell: ``python -m benchmarks controls [pair|worlds] [--runs N]``.

`pair`: whole runs of `compare` on the built-in pair, or on models that are named. `worlds`: mean squared errors in
random worlds that are enumerated, and in the one where Rao-Blackwell is worse than k1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

import kullback as kb
from benchmarks.fits import _crossed, _random
from kullback.estimation.sequences import Sequences
from kullback.oracle import World
from kullback.rollouts import to_sequences

NAMES = ("rao_blackwell", "rao_blackwell_controlled")
BOTH: tuple[tuple[kb.Estimator, Literal["token"]], ...] = tuple((kb.ESTIMATORS[name], "token") for name in NAMES)
ROWS = (64, 128)
"""With 48 and fewer nothing is subtracted."""


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks controls", description=__doc__)
    parser.add_argument("what", choices=("pair", "worlds"), nargs="?", default="pair")
    parser.add_argument("--runs", type=int, default=10, help="whole runs; of worlds, batches of each size")
    parser.add_argument("--samples", type=int, default=16, help="of each prompt")
    parser.add_argument("--worlds", type=int, default=50)
    parser.add_argument("--policy", default="builtin:tuned")
    parser.add_argument("--reference", default="builtin:base")
    parser.add_argument("--prompts", default=None)
    given = parser.parse_args(argv)
    print(worlds(given.worlds, given.runs) if given.what == "worlds" else pair(given))


def pair(given: argparse.Namespace) -> str:
    """Both estimates of whole runs, with the errors given the prompts, and what the fit costs."""
    lines = ["| seed | Rao-Blackwell | with token values | variance ratio | fit, CPU s |", "|---|---|---|---:|---:|"]
    found = []
    for seed in range(given.runs):
        run = kb.compare(
            given.policy, given.reference, given.prompts, samples=given.samples, seed=seed, estimators=BOTH
        )
        plain, valued = (row.per_sequence for row in run.rows)
        started = time.process_time()
        kb.Accumulator(estimator=NAMES[1]).update(to_sequences(run.rollouts)).result()
        seconds = time.process_time() - started
        errors = [one.given_prompts.stderr for one in (plain, valued) if one.given_prompts is not None]
        found.append((plain.value, valued.value, *errors, seconds))
        lines.append(
            f"| {seed} | {plain.value:.4f} ± {errors[0]:.4f} | {valued.value:.4f} ± {errors[1]:.4f} | "
            f"{(errors[0] / errors[1]) ** 2:.2f} | {seconds:.2f} |"
        )
    mean = np.array(found).mean(axis=0)
    squares = (np.array(found)[:, 2:4] ** 2).mean(axis=0)
    off = np.array(found)[:, 1] - np.array(found)[:, 0]
    lines.append(
        f"| mean | {mean[0]:.4f} ± {squares[0] ** 0.5:.4f} | {mean[1]:.4f} ± {squares[1] ** 0.5:.4f} | "
        f"{squares[0] / squares[1]:.2f} | {mean[4]:.2f} |"
    )
    lines.append(f"\nDifference of the two: {off.mean():+.4f} ± {off.std(ddof=1) / len(off) ** 0.5:.4f}.")
    return "\n".join(lines)


def worlds(count: int, batches: int) -> str:
    """Mean squared errors over Rao-Blackwell's, and how often the interval holds the truth (in brackets, its own)."""
    head = " | ".join(f"{rows} | covers" for rows in ROWS)
    lines = [f"| world | {head} |", "|---|" + "---:|" * (2 * len(ROWS))]
    for number in (-1, *range(count)):
        name, world = ("crossed", _crossed()) if number < 0 else _random(number)
        if float(np.var(np.asarray(world.token_kl).sum(axis=1))) < 1e-20:
            continue
        cells = [_cell(world, rows, batches, number) for rows in ROWS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def ratio(world: World, rows: int, batches: int, seed: int) -> tuple[float, float, float, float]:
    """Of mean squared errors, with its Monte Carlo error; and the share of intervals that hold the truth, of both."""
    truth, features = float(world.exact(kb.REVERSE_KL)), world.features()
    rng = np.random.default_rng([seed + 1, rows])
    squares, covers = np.zeros((batches, 2)), np.zeros((batches, 2))
    for batch in range(batches):
        drawn = _drawn(world, features, world.policy.sample(rng, rows))
        for at, name in enumerate(NAMES):
            found = kb.Accumulator(estimator=name).update(drawn).result()
            low, high = found.interval()
            squares[batch, at], covers[batch, at] = (found.value - truth) ** 2, low <= truth <= high
    bare, valued = squares.T
    over = float(valued.mean() / bare.mean()) if bare.mean() > 1e-24 else 1.0
    error = float(np.std(valued - over * bare) / max(bare.mean(), 1e-300) / batches**0.5)
    plain, corrected = (float(share) for share in covers.mean(axis=0))
    return over, error, plain, corrected


def _cell(world: World, rows: int, batches: int, number: int) -> str:
    over, error, plain, valued = ratio(world, rows, batches, number)
    return f"{over:.3f} ± {error:.3f} | {100 * valued:.1f}% ({100 * plain:.1f}%)"


def _drawn(world: World, features: dict[str, np.ndarray], rows: np.ndarray) -> Sequences:
    policy = world.policy
    return Sequences(
        logprobs=np.asarray(policy.logprobs)[rows],
        ref_logprobs=np.asarray(world.reference.logprobs)[rows],
        mask=policy.mask[rows],
        token_kl=np.asarray(world.token_kl)[rows],
        **{name: values[rows] for name, values in features.items()},
    )
