"""Fitted members against their unfitted forms: mean squared errors in random worlds and in the crossed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool

import numpy as np

import kullback as kb
from kullback.oracle import TreeLM, World
from kullback.oracle.tree import prefix_count

PAIRS = (("k1", "control_variate"), ("rao_blackwell", "rao_blackwell_controlled"))
ROWS = (8, 16, 64, 256)
WORLDS = 20
REPLICATIONS = {8: 1500, 16: 1500, 64: 1000, 256: 500}
"""Batches of each size."""


@dataclass(frozen=True)
class Case:
    """A world by what it is made of, so that it can be made in any process."""

    name: str
    number: int

    @property
    def world(self) -> World:
        """The world itself."""
        return _crossed() if self.number < 0 else _random(self.number)[1]


def _random(number: int) -> tuple[str, World]:
    """Up to 4 tokens of 3 to 9 words, log-ratios of words spread by 0.1 to 1.5 nats."""
    rng = np.random.default_rng([5, number])
    vocab = int(rng.integers(3, 10))
    horizon = int(rng.integers(1, 5 if vocab < 6 else 4))
    apart = (0.1, 0.3, 0.6, 1.0, 1.5)[number % 5]
    shape = (prefix_count(vocab, horizon), vocab)
    base = rng.normal(size=shape)
    models = (TreeLM(base + apart * rng.normal(size=shape), eos=0, horizon=horizon) for _ in range(2))
    return f"{vocab} words, ≤ {horizon} tokens, {apart:g} apart", World(*models)


def _crossed() -> World:
    """Where Rao-Blackwell has a larger variance than k1: its KLs run against the log-ratios before them."""
    tables = (
        {(): (0.5, 0.5), (0,): (0.5, 0.5), (1,): (0.01, 0.99)},
        {(): (0.25, 0.75), (0,): (0.5, 0.5), (1,): (0.99, 0.01)},
    )
    return World(*(TreeLM(partial(_next, table), eos=0, horizon=2) for table in tables))


def _next(table: Mapping[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...]) -> np.ndarray:
    """Logits after a prefix; the word that ends is never drawn, so that there are always two."""
    return np.log([1e-300, *table[tuple(word - 1 for word in prefix)]])


def cases() -> list[Case]:
    """The random worlds and the crossed one."""
    return [*(Case(_random(i)[0], i) for i in range(WORLDS)), Case("crossed (0.5, 0.5; 0.01, 0.99)", -1)]


def errors(case: Case, rows: int) -> dict[str, np.ndarray]:
    """Squared errors of every member over the same batches."""
    world, rng = case.world, np.random.default_rng([case.number + 1, rows])
    truth = float(world.exact(kb.REVERSE_KL))
    names = [name for pair in PAIRS for name in pair]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(REPLICATIONS[rows]):
        batch = world.sample(rng, rows)
        for name in names:
            found[name].append((kb.Accumulator(estimator=name).update(batch).result().value - truth) ** 2)
    return {name: np.array(values) for name, values in found.items()}


def table(processes: int = 1, chosen: Sequence[Case] | None = None) -> str:
    """Ratios of mean squared errors, fitted over unfitted, with their Monte Carlo errors, as Markdown."""
    listed = cases() if chosen is None else list(chosen)
    tasks = [(case, rows) for case in listed for rows in ROWS]
    if processes == 1:
        found = [errors(*task) for task in tasks]
    else:
        with Pool(processes) as pool:
            found = pool.starmap(errors, tasks, chunksize=1)
    by_task = dict(zip(tasks, found, strict=True))
    head = " | ".join(f"{fitted}, {rows}" for _, fitted in PAIRS for rows in ROWS)
    lines = [
        "Mean squared error of a fitted member over that of its unfitted form (k1 and Rao-Blackwell), by rows, with "
        "the Monte Carlo error of the ratio; – where the unfitted form is exact.",
        "",
        f"| world | {head} |",
        "|---|" + "---:|" * (len(PAIRS) * len(ROWS)),
    ]
    for case in listed:
        cells = [_ratio(by_task[case, rows][bare], by_task[case, rows][fit]) for bare, fit in PAIRS for rows in ROWS]
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(bare: np.ndarray, fitted: np.ndarray) -> str:
    if bare.mean() < 1e-24:
        return "–"
    ratio = fitted.mean() / bare.mean()
    error = np.std(fitted - ratio * bare) / bare.mean() / len(bare) ** 0.5
    return f"{ratio:.2f} ± {error:.2f}"
