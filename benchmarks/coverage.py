"""How often a 95% interval covers the truth, on worlds whose truth is known by enumeration.

Every replication draws sequences from the policy of an exact world and asks whether the interval holds the
exact KL. Replications that come with a warning are counted apart: there the package says not to trust it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import kullback as kb
from kullback.estimators import Level
from kullback.oracle import TreeLM, World
from kullback.oracle.tree import prefix_count

ESTIMATORS: tuple[tuple[kb.Estimator, Level], ...] = (
    (kb.K1, "token"),
    (kb.K3, "token"),
    (kb.K3, "sequence"),
    (kb.ControlVariate("fit"), "token"),
    (kb.RAO_BLACKWELL, "token"),
    (kb.RAO_BLACKWELL_CONTROLLED, "token"),
)

ROUNDING = 1e-9
"""Rao-Blackwell is exact on one-token worlds, where its interval has no width."""


@dataclass(frozen=True)
class Case:
    """A world and whether its ratio is heavy-tailed."""

    name: str
    world: World
    heavy: bool


def _tables(
    policy: Callable[[tuple[int, ...]], np.ndarray], reference: Callable[[tuple[int, ...]], np.ndarray], horizon: int
) -> World:
    return World(*(TreeLM(lm, eos=0, horizon=horizon) for lm in (policy, reference)))


def _random(seed: int, vocab: int, horizon: int, apart: float) -> World:
    rng = np.random.default_rng(seed)
    shape = (prefix_count(vocab, horizon), vocab)
    base = rng.normal(size=shape)
    return World(*(TreeLM(base + apart * rng.normal(size=shape), eos=0, horizon=horizon) for _ in range(2)))


def _pareto(shape: float, outcomes: int = 20_000) -> np.ndarray:
    return np.asarray((1 - (np.arange(outcomes) + 0.5) / outcomes) ** -shape)


def _heavy_ratio(shape: float) -> World:
    """One token, uniform under the policy; r = p/q is Pareto with a shape k."""
    r = _pareto(shape)
    return _tables(lambda _: np.zeros_like(r), lambda _: np.log(r), 1)


def _heavy_log_ratio(shape: float) -> World:
    """One token, uniform under the policy; ℓ = log q − log p is Pareto with a shape k, up to a constant."""
    log_ratio = _pareto(shape)
    return _tables(lambda _: np.zeros_like(log_ratio), lambda _: -log_ratio, 1)


def cases() -> tuple[Case, ...]:
    """Three ordinary worlds and two heavy-tailed ones."""
    rng = np.random.default_rng(5)
    q = rng.normal(size=8)
    p = q + 0.4 * rng.normal(size=8)
    q[0] = p[0] = -0.5
    return (
        Case("near: 3 tokens, vocabulary 16", _random(0, 16, 3, 0.2), heavy=False),
        Case("apart: 2 tokens, vocabulary 24", _random(1, 24, 2, 0.4), heavy=False),
        Case("i.i.d. tokens until eos, at most 5", _tables(lambda _: q, lambda _: p, 5), heavy=False),
        Case("heavy r: Pareto ratio, k = 1.5", _heavy_ratio(1.5), heavy=True),
        Case("heavy ℓ: Pareto log-ratio, k = 1.5", _heavy_log_ratio(1.5), heavy=True),
    )


@dataclass(frozen=True)
class Coverage:
    """Replications of one estimator in one world: how many came without a warning, and how many covered."""

    case: str
    estimator: str
    quiet: int
    covered_quiet: int
    replications: int
    covered: int

    @property
    def rate(self) -> float:
        """Coverage among replications without a warning."""
        return self.covered_quiet / self.quiet if self.quiet else float("nan")


def measure(case: Case, replications: int, sequences: int, seed: int = 0) -> list[Coverage]:
    """The coverage of every estimator in one world."""
    rng = np.random.default_rng(seed)
    truth = float(case.world.exact(kb.REVERSE_KL))
    hits = {(e.name, level): [0, 0, 0] for e, level in ESTIMATORS}
    for _ in range(replications):
        batch = case.world.sample(rng, sequences)
        for estimator, level in ESTIMATORS:
            found = kb.Accumulator(estimator=estimator, level=level).update(batch).result()
            low, high = found.interval()
            covered = low - ROUNDING <= truth <= high + ROUNDING
            count = hits[estimator.name, level]
            count[0] += not found.warnings
            count[1] += covered and not found.warnings
            count[2] += covered
    return [
        Coverage(case.name, f"{name} ({level})", quiet, good, replications, covered)
        for (name, level), (quiet, good, covered) in hits.items()
    ]


def table(replications: int = 2000, sequences: int = 512) -> str:
    """The table as Markdown."""
    lines = [
        f"95% intervals, {replications} replications of {sequences} sequences.",
        "",
        "| world | estimator | without a warning | coverage there | coverage of all |",
        "|---|---|---:|---:|---:|",
    ]
    for case in cases():
        for row in measure(case, replications, sequences):
            rate = f"{100 * row.rate:.1f}%" if row.quiet else "–"
            share, everything = 100 * row.quiet / row.replications, 100 * row.covered / row.replications
            lines.append(f"| {row.case} | {row.estimator} | {share:.1f}% | {rate} | {everything:.1f}% |")
    return "\n".join(lines)
