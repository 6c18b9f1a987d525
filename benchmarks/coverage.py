"""How often a 95% interval covers the truth, on worlds whose truth is known by enumeration.

Every replication draws sequences from the policy of an exact world and asks whether the interval holds the
exact KL. Replications that come with a warning are counted apart: there the package says not to trust it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from multiprocessing import Pool
from typing import TypeVar

import numpy as np

import kullback as kb
from kullback.estimation.recipe import Unit
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

CHUNK = 25
"""Replications that one process makes in a row, from a seed of their own: tables do not depend on the processes."""

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
    log_ratio = 1e-3 * _pareto(shape)  # the least log-prob is then −8,000: below −9,000 they are refused as sentinels
    return _tables(lambda _: np.zeros_like(log_ratio), lambda _: -log_ratio, 1)


@lru_cache(maxsize=1)
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

    def __add__(self, other: Coverage) -> Coverage:
        """Of both, replications of the same."""
        numbers = (a + b for a, b in zip(astuple(self)[2:], astuple(other)[2:], strict=True))
        return Coverage(self.case, self.estimator, *numbers)

    @property
    def rate(self) -> float:
        """Coverage among replications without a warning."""
        return self.covered_quiet / self.quiet if self.quiet else float("nan")


def measure(case: Case, replications: int, sequences: int, seed: Sequence[int] = (0,)) -> list[Coverage]:
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


@dataclass(frozen=True)
class Design:
    """How many sequences of how many prompts, and how much the prompts' KLs differ.

    Attributes:
        name: what the table calls it.
        sizes: samples of each prompt that is drawn.
        variation: coefficient of variation of the prompts' KLs; 0 for one prompt that all sequences share.
        off_policy: whether another policy draws them.
    """

    name: str
    sizes: tuple[int, ...]
    variation: float
    off_policy: bool = False


UNEQUAL = tuple(int(n) for n in np.random.default_rng(0).integers(2, 25, size=24))

SIZES = {
    "8 × 1": (1,) * 8,
    "4 × 64": (64,) * 4,
    "16 × 4": (4,) * 16,
    "24 unequal": UNEQUAL,
    "32 × 8": (8,) * 32,
    "64 × 16": (16,) * 64,
    "512 × 1": (1,) * 512,
}

DESIGNS = (
    *(Design(name, sizes, variation) for variation in (0.5, 1.4) for name, sizes in SIZES.items()),
    Design("8 of one prompt", (8,), 0.0),
    Design("256 of one prompt", (256,), 0.0),
    Design("512 of one prompt, off-policy", (512,), 0.0, off_policy=True),
)

PROMPTS = 200
"""Prompts of a population; every one is an exact world of its own."""


@dataclass(frozen=True)
class Population:
    """Prompts with exact worlds: KLs and mean lengths are known."""

    worlds: tuple[World, ...]
    kls: np.ndarray
    lengths: np.ndarray

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, variation: float, *, off_policy: bool = False) -> Population:
        """Random worlds of up to 3 tokens of 8, whose KLs have a gamma distribution with this variation."""
        rng = np.random.default_rng(7)
        shape = (57, 8)
        count = PROMPTS if variation else 1
        scales = rng.gamma(1 / variation**2, variation**2, size=count) if variation else np.ones(1)
        worlds = []
        for scale in scales:
            base = rng.normal(size=shape)
            policy = base + 0.35 * max(scale, 1e-4) ** 0.5 * rng.normal(size=shape)
            other = TreeLM(policy + 0.3 * rng.normal(size=shape), eos=0, horizon=3) if off_policy else None
            worlds.append(World(TreeLM(policy, eos=0, horizon=3), TreeLM(base, eos=0, horizon=3), other))
        kls = np.array([float(world.exact(kb.REVERSE_KL)) for world in worlds])
        lengths = np.array([_mean_length(world) for world in worlds])
        return cls(tuple(worlds), kls, lengths)

    def truth(self, chosen: np.ndarray, sizes: np.ndarray, unit: str) -> tuple[float, float]:
        """Of the population, and of these prompts with these numbers of samples."""
        bottom = self.lengths if unit == "token" else np.ones_like(self.lengths)
        everything = self.kls.sum() / bottom.sum()
        return float(everything), float((sizes * self.kls[chosen]).sum() / (sizes * bottom[chosen]).sum())


def _mean_length(world: World) -> float:
    mask = np.asarray(world.policy.mask)
    chance = np.exp(np.where(mask, np.asarray(world.policy.logprobs), 0.0).sum(axis=1))
    return float(chance @ mask.sum(axis=1))


def _sampled(
    population: Population, design: Design, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    chosen = rng.choice(len(population.worlds), size=len(design.sizes), replace=len(population.worlds) > 1)
    parts = [population.worlds[i].sample(rng, n) for i, n in zip(chosen, design.sizes, strict=True)]
    batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return chosen, {**batch, "groups": np.repeat(np.arange(len(chosen)), design.sizes)}


def _hit(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] - ROUNDING <= truth <= interval[1] + ROUNDING


HEADER = (
    "| prompts × samples | KLs vary by | estimator | unit | quiet | population, quiet | all | these prompts |",
    "|---|---:|---|---|---:|---:|---:|---:|",
)

Key = tuple[str, str, str]


def designs_table(replications: int = 1000, processes: int = 1, designs: Sequence[Design] = DESIGNS) -> str:
    """Coverage by design, estimator and unit, for both errors, as Markdown."""
    tasks = [(design, *part) for design in designs for part in _chunks(replications)]
    found = _spread(_replicate, tasks, processes)
    lines = [
        f"Both errors, {replications:,} replications of each design (a Monte Carlo error of "
        f"{100 * (0.0475 / replications) ** 0.5:.1f} points); “quiet”: without a warning, but the one that every "
        "estimate of a single prompt carries. Fewer than 30 sequences, and fewer than 20 prompts (by what unequal "
        "numbers of samples are worth), always come with one: “the error rests on …”.",
        "",
        *HEADER,
    ]
    for design in designs:
        parts = [part for (of, *_), part in zip(tasks, found, strict=True) if of is design]
        for key in parts[0]:
            lines.append(_row(design, key, np.concatenate([part[key] for part in parts])))
    return "\n".join(lines)


def _row(design: Design, key: Key, hits: np.ndarray) -> str:
    """One row of the table: shares of the replications, of the quiet ones and of all."""
    name, level, unit = key
    quiet = hits[:, 0] > 0
    covered = hits[quiet, 1].mean() if quiet.any() else np.nan
    cells = (quiet.mean(), covered, hits[:, 1].mean(), hits[:, 2].mean())
    shown = " | ".join("–" if np.isnan(x) else f"{100 * x:.1f}%" for x in cells)
    return f"| {design.name} | {design.variation:g} | {name} ({level}) | {unit} | {shown} |"


def _replicate(design: Design, replications: int, seed: Sequence[int]) -> dict[Key, np.ndarray]:
    """Whether each replication was quiet, and whether it covered the population's and these prompts' value."""
    population = Population.of(design.variation, off_policy=design.off_policy)
    rng, sizes = np.random.default_rng([1, *seed]), np.array(design.sizes)
    units: tuple[Unit, ...] = ("sequence", "token")
    hits: dict[Key, list[tuple[float, float, float]]] = {}
    for _ in range(replications):
        chosen, batch = _sampled(population, design, rng)
        for estimator, level in ESTIMATORS:
            for unit in units:
                found = kb.Accumulator(estimator=estimator, level=level, unit=unit).update(batch).result()
                everything, these = population.truth(chosen, sizes, unit)
                given = found.given_prompts
                row = (
                    float(not _said(found)),
                    float(_hit(found.interval(), everything)),
                    np.nan if given is None else float(_hit(given.interval(), these)),
                )
                hits.setdefault((estimator.name, level, unit), []).append(row)
    return {key: np.array(rows) for key, rows in hits.items()}


def _said(found: kb.Estimate) -> list[str]:
    """Warnings but the one that every estimate of a single prompt carries."""
    return [warning for warning in found.warnings if "one prompt" not in warning]


R = TypeVar("R")


def _chunks(replications: int) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers of replications, each with its seed."""
    starts = range(0, replications, CHUNK)
    return [(min(CHUNK, replications - start), (start,)) for start in starts]


def _spread(work: Callable[..., R], tasks: Sequence[tuple[object, ...]], processes: int) -> list[R]:
    """work(*task) of every task, in order."""
    if processes == 1:
        return [work(*task) for task in tasks]
    with Pool(processes) as pool:
        return pool.starmap(work, tasks, chunksize=1)


def table(replications: int = 2000, sequences: int = 512, processes: int = 1) -> str:
    """Both tables as Markdown: single worlds, then designs of prompts."""
    return (
        worlds_table(replications, sequences, processes) + "\n\n" + designs_table(max(1, replications // 2), processes)
    )


def worlds_table(replications: int = 2000, sequences: int = 512, processes: int = 1) -> str:
    """Coverage in single worlds as Markdown."""
    lines = [
        f"95% intervals, {replications:,} replications of {sequences} sequences.",
        "",
        "| world | estimator | without a warning | coverage there | coverage of all |",
        "|---|---|---:|---:|---:|",
    ]
    tasks = [(number, n, sequences, seed) for number in range(len(cases())) for n, seed in _chunks(replications)]
    found = _spread(_measure, tasks, processes)
    for number in range(len(cases())):
        for row in _added(part for task, part in zip(tasks, found, strict=True) if task[0] == number):
            rate = f"{100 * row.rate:.1f}%" if row.quiet else "–"
            share, everything = 100 * row.quiet / row.replications, 100 * row.covered / row.replications
            lines.append(f"| {row.case} | {row.estimator} | {share:.1f}% | {rate} | {everything:.1f}% |")
    return "\n".join(lines)


def _measure(number: int, replications: int, sequences: int, seed: Sequence[int]) -> list[Coverage]:
    """`measure` of a case by its number: a world of functions does not travel between processes."""
    return measure(cases()[number], replications, sequences, seed)


def _added(parts: Iterable[list[Coverage]]) -> list[Coverage]:
    """Row by row, all parts together."""
    first, *rest = parts
    for part in rest:
        first = [a + b for a, b in zip(first, part, strict=True)]
    return first
