"""Rules that stop at a wished error or time: ``python -m benchmarks stopping [--runs N]``.

In worlds that are enumerated, ways to draw until the standard error is the wished one: a number that was known
beforehand, a pilot that no estimate rests on and then looks at the error of what was drawn (as ``compare --stderr`` has
it), and such looks alone, after every few sequences. And rounds that fill a time (as ``compare --seconds``), where a
sequence takes as long as it has tokens. Of each: bias in standard errors, coverage of the 95% interval, how often the
estimated and the true error is the wished one, the estimated over the true mean squared error, and sequences.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

import numpy as np

import kullback as kb
from benchmarks.fits import _random
from kullback.jobs.wishes import further, planned, wish
from kullback.oracle import World

WORLDS = (0, 1, 6, 8, 9)
"""By number, as in `benchmarks.fits`: from 0.1 to 1.5 nats apart."""

STEP, FIRST = 8, 8
"""Sequences that are looked at first, and after how many more again."""

WISHED = 48
"""Sequences that the wished error takes."""


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stopping", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="of each rule in each world")
    given = parser.parse_args(argv)
    print("| world | rule | bias, standard errors | covers | reached | truly | estimated / true MSE | sequences |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for number in WORLDS:
        name, world = _random(number)
        for rule, draws in RULES.items():
            print(f"| {name} | {rule} | {row(world, draws, given.runs, number)} |", flush=True)


def row(world: World, draws: Callable[..., np.ndarray], runs: int, seed: int) -> str:
    """What a rule's estimates are, over many runs."""
    rng, truth = np.random.default_rng([7, seed]), float(world.exact(kb.REVERSE_KL))
    kls, chances = np.asarray(world.token_kl).sum(axis=1), np.asarray(world.probability)
    spread = float(np.sqrt(chances @ (kls - truth) ** 2))
    target = spread / WISHED**0.5
    found = [_run(world, draws(world, rng, target, spread)) for _ in range(runs)]
    values = np.array([one.value for one in found])
    covers = np.mean([one.interval()[0] <= truth <= one.interval()[1] for one in found])
    errors, counts = np.array([one.stderr for one in found]), np.array([one.n for one in found])
    reached, truly = np.mean(errors <= target), np.mean(spread / counts**0.5 <= target * (1 + 1e-9))
    off, error = (values.mean() - truth) / target, values.std() / target / runs**0.5
    squares = np.mean(errors**2) / np.mean((values - truth) ** 2)
    return (
        f"{off:+.3f} ± {error:.3f} | {100 * covers:.1f}% | {100 * reached:.0f}% | {100 * truly:.0f}% | "
        f"{squares:.2f} | {counts.mean():.0f}"
    )


def known(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """As many as the true variance says."""
    return np.asarray(world.policy.sample(rng, ceil((spread / target) ** 2)))


def piloted(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """As many as a pilot plans, which is left out, and more while the error is above the wished one."""
    asked = wish(None, target, None, prompts=1)
    pilot = _seen(world, world.policy.sample(rng, asked.samples))
    count, rows = planned(asked, pilot, taken=0.0, elapsed=0.0, prompts=1), np.zeros(0, dtype=np.int64)
    while count > len(rows):
        rows = np.concatenate([rows, world.policy.sample(rng, count - len(rows))])
        count = further(asked, _seen(world, rows), samples=len(rows), elapsed=0.0, pace=0.0, prompts=1)
    return rows


def timed(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """As many as a time allows: that of so many sequences as the error takes, of mean length."""
    length = world.policy.mask.sum(axis=1)
    allowed = (spread / target) ** 2 * float(np.asarray(world.probability) @ length)
    asked = wish(None, None, allowed, prompts=1)
    count, rows, pace = asked.samples, np.zeros(0, dtype=np.int64), 0.0
    while count > len(rows):
        more = world.policy.sample(rng, count - len(rows))
        rows, pace = np.concatenate([rows, more]), float(length[more].mean())
        count = further(asked, None, samples=len(rows), elapsed=float(length[rows].sum()), pace=pace, prompts=1)
    return rows


def looking(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """Until the error of what was drawn is small enough."""
    rows = np.asarray(world.policy.sample(rng, 100 * WISHED))
    kls = np.asarray(world.token_kl).sum(axis=1)[rows]
    for count in range(FIRST, len(rows), STEP):
        if kls[:count].std(ddof=1) / count**0.5 <= target:
            return rows[:count]
    return rows


TEMPLATE = kb.estimate([[-0.5], [-0.7], [-0.1]], [[-0.7], [-0.6], [-0.3]], estimator="k1")
RULES = {"known beforehand": known, "a pilot and looks": piloted, "looks alone": looking, "in a time": timed}


def _seen(world: World, rows: np.ndarray) -> kb.Estimate:
    """What a rule looks at, in the two numbers that it reads: `kb.estimate` would find the same in a hundred times."""
    off = np.asarray(world.token_kl).sum(axis=1)[rows]
    off = off - off.mean()
    variance = float(np.mean(off**2))
    error = (variance / (len(rows) - 1)) ** 0.5
    skewness = float(np.mean(off**3)) / variance**1.5 if variance > 0 else 0.0
    return replace(TEMPLATE, stderr=error, skewness=skewness, n=len(rows), clusters=len(rows))


def _run(world: World, rows: np.ndarray) -> kb.Estimate:
    policy = world.policy
    return kb.estimate(
        np.asarray(policy.logprobs)[rows],
        np.asarray(world.reference.logprobs)[rows],
        policy.mask[rows],
        token_kl=np.asarray(world.token_kl)[rows],
        estimator="rao_blackwell",
    )
