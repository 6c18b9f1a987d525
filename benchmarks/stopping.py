"""Rules that stop at a wished error: ``python -m benchmarks stopping [--runs N]``.

In worlds that are enumerated, three ways to draw until the standard error is the wished one: a number that was known
beforehand, a pilot that no estimate rests on (as ``compare --stderr`` has it), and looking after every few sequences at
the error of all that was drawn. Bias in standard errors, coverage of the 95% interval, how often the error was reached.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

import kullback as kb
from benchmarks.fits import _random
from kullback.jobs.wishes import chosen, wish
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
    print("| world | rule | bias, standard errors | covers | reached | sequences |\n|---|---|---:|---:|---:|---:|")
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
    reached = np.mean([one.stderr <= target for one in found])
    off, error = (values.mean() - truth) / target, values.std() / target / runs**0.5
    count = np.mean([one.n for one in found])
    return f"{off:+.3f} ± {error:.3f} | {100 * covers:.1f}% | {100 * reached:.0f}% | {count:.0f}"


def known(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """As many as the true variance says."""
    return np.asarray(world.policy.sample(rng, ceil((spread / target) ** 2)))


def piloted(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """As many as a pilot says, which is left out."""
    asked = wish(None, target, None, prompts=1)
    pilot = _run(world, world.policy.sample(rng, asked.samples))
    return np.asarray(world.policy.sample(rng, chosen(asked, pilot, taken=0.0, elapsed=0.0, prompts=1)))


def looking(world: World, rng: np.random.Generator, target: float, spread: float) -> np.ndarray:
    """Until the error of what was drawn is small enough."""
    rows = np.asarray(world.policy.sample(rng, 100 * WISHED))
    kls = np.asarray(world.token_kl).sum(axis=1)[rows]
    for count in range(FIRST, len(rows), STEP):
        if kls[:count].std(ddof=1) / count**0.5 <= target:
            return rows[:count]
    return rows


RULES = {"known beforehand": known, "a pilot, left out": piloted, "looking": looking}


def _run(world: World, rows: np.ndarray) -> kb.Estimate:
    policy = world.policy
    return kb.estimate(
        np.asarray(policy.logprobs)[rows],
        np.asarray(world.reference.logprobs)[rows],
        policy.mask[rows],
        token_kl=np.asarray(world.token_kl)[rows],
        estimator="rao_blackwell",
    )
