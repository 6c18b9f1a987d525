"""Two dumps side by side: what differs, with an error that knows which prompts they share."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Record, plain
from kullback.estimation.intervals import skewed_interval
from kullback.estimation.recipe import Unit
from kullback.estimation.rows import Rows
from kullback.jobs.files.ledger import Ledger, Singles

FEWEST = 2
"""Prompts that a paired error needs."""


@dataclass(frozen=True)
class Difference:
    """A question's answer in the second dump minus that in the first.

    Attributes:
        title, question, estimator, unit: of both.
        first, second: the two values, over what is compared.
        value: second − first.
        stderr: for prompts drawn anew.
        low, high: its 95% interval.
        clusters: prompts or rows that it rests on; the fewer of the two where they are not paired.
        sequences: of each dump that are compared.
    """

    title: str
    question: str
    estimator: str
    unit: Unit
    first: float
    second: float
    stderr: float
    low: float
    high: float
    clusters: int
    sequences: tuple[int, int]

    @property
    def value(self) -> float:
        """Second minus first."""
        return self.second - self.first

    def to_dict(self) -> Record:
        """The record that ``--json`` prints; numbers that are not finite come as None."""
        record = {**vars(self), "value": self.value, "kl": self.title}
        del record["title"]
        return dict(plain(record))


@dataclass(frozen=True)
class Pairing:
    """What two dumps share.

    Attributes:
        by: "prompt", "row" where prompts are not known and all rows have the same tokens, or "" for nothing.
        common: prompts of both, by which they are paired.
        only: prompts that one of them alone has.
        why: what stands against pairing, "" where they are paired.
        aligned: whether both hold the same tokens, row by row, whatever they are paired by.
    """

    by: str
    common: tuple[Hashable, ...] = ()
    only: tuple[int, int] = (0, 0)
    why: str = ""
    aligned: bool = False

    @classmethod
    def of(cls, first: Ledger, second: Ledger, *, same_rows: bool, whole: bool = True) -> Pairing:
        """By the names of prompts.

        Args:
            first, second: the rows of both.
            same_rows: whether the hashes of their token streams agree.
            whole: whether every row counts, so that a row has the same number in both.
        """
        if not (first.prompts.codes and second.prompts.codes):
            if same_rows and whole:
                return cls("row", aligned=True)
            left = "rows were left out, and prompts are not known in both"
            return cls("", why=left if same_rows else "prompts are not known in both")
        both = [name for name in first.prompts.values if name in second.prompts.values]
        if len(both) < FEWEST:
            return cls("", why="they share one prompt alone" if both else "they share no prompt")
        only = tuple(len(one.prompts.values) - len(both) for one in (first, second))
        return cls("prompt", tuple(both), (only[0], only[1]), aligned=same_rows and whole)

    def sentence(self, names: tuple[str, str]) -> str:
        """What was done, in words."""
        if self.by == "prompt":
            parts = [f"{count:,} of {name} alone" for count, name in zip(self.only, names, strict=True) if count]
            left = f"; {' and '.join(parts)} are left out of it" if parts else ""
            return f"Paired by prompt: the difference is over the {len(self.common):,} prompts of both{left}."
        if self.by == "row":
            return "Paired by row: both hold the same tokens, row by row."
        return f"Side by side and not paired, for {self.why}: the two errors are taken to be independent."


def differences(first: Ledger, second: Ledger, pairing: Pairing, unit: Unit) -> Iterator[Difference]:
    """Of every question that both answer by the same estimator."""
    for name, mine in first.singles.items():
        other = second.singles.get(name)
        if other is not None and other.estimator.name == mine.estimator.name:
            named = (first.ordered(mine), second.ordered(other))
            names = (_names(first, named[0]), _names(second, named[1]))
            # Rows of a prompt that both have may lack one of the laws in one of them.
            common = set(names[0]) & set(names[1]) if pairing.by else None
            if common != set():
                sides = [_Side.of(rows, own, common, unit) for rows, own in zip(named, names, strict=True)]
                yield _difference((sides[0], sides[1]), mine, unit, paired=bool(pairing.by))


@dataclass(frozen=True)
class Compared:
    """What both dumps have of a prompt, or of a row where rows are paired.

    Attributes:
        name: the prompt's.
        value: the mean of the second's sequences minus that of the first's, nats a sequence.
        first, second: the numbers of its rows in each.
    """

    name: Hashable
    value: float
    first: tuple[int, ...]
    second: tuple[int, ...]


def compared(first: Ledger, second: Ledger, pairing: Pairing, question: str) -> list[Compared]:
    """The rows where both hold the same tokens, else the prompts of both; what differs most first."""
    sides = [_by_name(ledger, ledger.singles[question], pairing) for ledger in (first, second)]
    found = [
        Compared(name, _mean(sides[1][name]) - _mean(rows), tuple(rows), tuple(sides[1][name]))
        for name, rows in sides[0].items()
        if name in sides[1]
    ]
    return sorted(found, key=lambda one: -abs(one.value) if isfinite(one.value) else -inf)


def _by_name(ledger: Ledger, singles: Singles, pairing: Pairing) -> dict[Hashable, dict[int, float]]:
    """What each row adds to the sum, by its prompt (by itself where rows are the same) and its number."""
    rows = ledger.ordered(singles)
    numbers, found = rows.number.tolist(), dict[Hashable, dict[int, float]]()
    names = numbers if pairing.aligned else _names(ledger, rows)
    for name, number, summand in zip(names, numbers, rows.summand.tolist(), strict=True):
        found.setdefault(name, {})[number] = summand
    return found


def _mean(rows: Mapping[int, float]) -> float:
    return sum(rows.values()) / len(rows)


@dataclass(frozen=True)
class _Side:
    """A dump's value over what is compared, and what each prompt (or sequence) adds beyond its share."""

    value: float
    residual: Mapping[Hashable, float]
    sequences: int

    @classmethod
    def of(cls, rows: Rows, names: list[Hashable], common: Collection[Hashable] | None, unit: Unit) -> _Side:
        """Of rows with their names; of those alone that are common, if any are."""
        if common is not None:
            chosen = np.array([name in common for name in names], dtype=bool)
            rows, names = rows[chosen], [name for name, kept in zip(names, chosen, strict=True) if kept]
        divisor = rows.weight if unit == "token" else np.ones_like(rows.weight)
        total = float(divisor.sum())
        value = float(rows.summand.sum()) / total if total > 0 else nan
        return cls(value, _summed(names, (rows.summand - value * divisor) / total), len(rows))


def _names(ledger: Ledger, rows: Rows) -> list[Hashable]:
    """The prompt of each row, or the row itself where prompts are not known."""
    if not ledger.prompts.codes:
        return [("row", number) for number in rows.number.tolist()]
    known = list(ledger.prompts.values)
    return [known[code] for code in ledger.prompts.whole[rows.number].tolist()]


def _summed(names: list[Hashable], values: Float64) -> dict[Hashable, float]:
    found: dict[Hashable, float] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        found[name] = found.get(name, 0.0) + value
    return found


def _difference(sides: tuple[_Side, _Side], singles: Singles, unit: Unit, *, paired: bool) -> Difference:
    """Clustered by prompt: a prompt of both adds what it adds to the difference, so that what they share cancels."""
    first, second = sides
    stderr, skewness, clusters = _spread(first, second, paired=paired)
    known = clusters > 1 and stderr > 0
    low, high = skewed_interval(second.value - first.value, stderr, skewness, clusters) if known else (nan, nan)
    return Difference(
        title=singles.question.title,
        question=singles.question.name,
        estimator=singles.estimator.name,
        unit=unit,
        first=first.value,
        second=second.value,
        stderr=stderr,
        low=low,
        high=high,
        clusters=clusters,
        sequences=(first.sequences, second.sequences),
    )


def _spread(first: _Side, second: _Side, *, paired: bool) -> tuple[float, float, int]:
    """Standard error, skewness of what is summed, and how many independent parts the smaller side has."""
    if paired:
        parts = np.array([second.residual[name] - value for name, value in first.residual.items()])
        return _of_sum(parts)
    one, two = (_of_sum(np.array([*side.residual.values()])) for side in (first, second))
    return sqrt(one[0] ** 2 + two[0] ** 2), 0.0, min(one[2], two[2])


def _of_sum(parts: Float64) -> tuple[float, float, int]:
    count = len(parts)
    if count < 2:
        return nan, 0.0, count
    spread = parts - parts.mean()
    variance = float(np.mean(spread**2))
    skewness = float(np.mean(spread**3)) / variance**1.5 if variance > 0 else 0.0
    return sqrt(count * variance * count / (count - 1)), skewness, count
