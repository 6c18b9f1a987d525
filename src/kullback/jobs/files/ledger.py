"""Single sequences of the questions, kept to be grouped in the end by whatever tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from kullback.estimation import Estimate
from kullback.estimation.moments import numbered
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import Unit
from kullback.estimation.rows import Rows
from kullback.estimators import Estimator
from kullback.jobs.files.columns import Value
from kullback.jobs.files.parts import Part
from kullback.jobs.files.places import Place, Places
from kullback.jobs.files.questions import Question
from kullback.jobs.files.tally import Read

RANGES = (slice(0, 1), *(slice(2**power, 2 ** (power + 1)) for power in range(24)))
"""Positions, each range as long as all before it: token 1, token 2, tokens 3 and 4, 5 to 8, …"""


@dataclass
class Singles:
    """The sequences of a question, by its first estimator.

    Attributes:
        question, estimator: what was computed of them.
        rows: block by block.
        ranges: the same within ranges of positions, where asked for.
        places: where those are that move the estimate most.
    """

    question: Question
    estimator: Estimator
    rows: list[Rows] = field(default_factory=list)
    ranges: dict[int, list[Rows]] = field(default_factory=dict)
    places: Places = field(default_factory=Places)

    def add(self, part: Part, sequences: Ragged, rows: Rows | None, *, positions: bool = False) -> Rows:
        """Add sequences, which are known one by one or are looked at; what they add to the question's sum."""
        self.rows.append(_numbered(Rows.of(sequences, self.estimator) if rows is None else rows, part))
        if positions:
            longest = int(part.block.columns.lengths.max())
            reached = [span for span in RANGES if span.start < longest]
            for number, found in enumerate(Rows.by_span(sequences, self.estimator, reached)):
                self.ranges.setdefault(number, []).append(_numbered(found, part))
        return self.rows[-1]


def _numbered(rows: Rows, part: Part) -> Rows:
    return replace(rows, number=part.number[rows.number])


@dataclass
class Column:
    """What each row holds in a column, as the number of its value."""

    values: dict[Value | None, int] = field(default_factory=dict)
    codes: list[np.ndarray] = field(default_factory=list)

    def add(self, values: Sequence[Value | None] | np.ndarray) -> None:
        """The values of more rows."""
        distinct, number = numbered(values)
        codes = [self.values.setdefault(cast("Value | None", value), len(self.values)) for value in distinct]
        self.codes.append(np.array(codes, dtype=np.int32)[number])

    @property
    def whole(self) -> np.ndarray:
        """The numbers of all rows."""
        return np.concatenate(self.codes)


@dataclass(frozen=True)
class Group:
    """Rows, or ranges of positions, that are alike in something.

    Attributes:
        value: what they have in common; None where the rows say nothing.
        found: their estimate.
        size: what the estimate was divided by: tokens, or sequences.
    """

    value: Value | None
    found: Estimate
    size: float


@dataclass
class Ledger:
    """Sequences, their prompts and what tells them apart: some 60 bytes a sequence, whatever its length.

    Attributes:
        names: the columns that are remembered.
        positions: whether ranges of positions are told apart.
    """

    names: Sequence[str]
    positions: bool = False
    singles: dict[str, Singles] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    prompts: Column = field(default_factory=Column)

    def add(self, part: Part) -> None:
        """The columns of rows that count."""
        for name in self.names:
            self.columns.setdefault(name, Column()).add(part.block.values(name))
        if part.prompts is not None:
            self.prompts.add(part.prompts)

    def keep(self, read: Read, part: Part) -> None:
        """The sequences of a question; none where the estimator fits its coefficients on all of them together."""
        if read.estimator.controls or read.estimator.link is not None:
            return
        singles = self.singles.setdefault(read.question.name, Singles(read.question, read.estimator))
        rows = singles.add(part, read.sequences, read.rows, positions=self.positions)
        block, first, place = part.block, int(part.number[0]), part.place
        singles.places.keep(rows, lambda number: Place.of(block, number - first, int(place[number - first])))

    def ordered(self, singles: Singles) -> Rows:
        """All sequences of a question, by number."""
        return _ordered(singles.rows)

    def whole(self, singles: Singles, unit: Unit) -> Estimate:
        """The estimate of all sequences."""
        return self._group(None, self.ordered(singles), singles, unit).found

    def groups(self, name: str, singles: Singles, unit: Unit) -> Iterator[Group]:
        """The estimate of every value of a column, in the order in which they came first."""
        rows = self.ordered(singles)
        codes = self.columns[name].whole[rows.number]
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], range(len(self.columns[name].values) + 1))
        for code, value in enumerate(self.columns[name].values):
            chosen = order[ends[code] : ends[code + 1]]
            if chosen.size:
                yield self._group(value, rows[chosen], singles, unit)

    def ranges(self, singles: Singles, unit: Unit) -> Iterator[Group]:
        """The estimate of every range of positions; nats a sequence are what the range adds to a sequence."""
        for number in sorted(singles.ranges):
            rows = _ordered(singles.ranges[number])
            if len(rows):
                yield self._group(_range(RANGES[number]), rows, singles, unit)

    def _group(self, value: Value | None, rows: Rows, singles: Singles, unit: Unit) -> Group:
        prompts = self.prompts.whole[rows.number] if self.prompts.codes else None
        size = float(rows.weight.sum()) if unit == "token" else float(len(rows))
        return Group(value, rows.estimate(singles.estimator, unit, prompts), size)


def _range(span: slice) -> str:
    first, last = span.start + 1, span.stop
    return f"{first}" if first == last else f"{first}–{last}"


def _ordered(parts: Sequence[Rows]) -> Rows:
    whole = Rows.joined(parts)
    return whole[np.argsort(whole.number, kind="stable")]
