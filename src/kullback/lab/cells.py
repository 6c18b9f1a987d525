"""Numbers as the experiments' tables show them: infinite, large, to fixed decimals; and tables of one record a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import TypeVar

from kullback.documents import Cell, Interval, Number, Table, Uncertain

INFINITE = "∞"
LARGE = 1000
"""Relative numbers from here on are shown to two digits, as in 1.2e6."""

Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], Cell]]
"""The columns of a table: what each is called, and its cell in the row of a record."""


@dataclass(frozen=True)
class Unbounded(Number):
    """A number that may be infinite, and is shown as ∞ then: a standard deviation that does not exist."""

    def __str__(self) -> str:
        return INFINITE if self.value == inf else super().__str__()


@dataclass(frozen=True)
class Relative(Unbounded):
    """A number over the truth, which may be many times it: ``0.123``, ``1.2e6`` or ∞."""

    def __str__(self) -> str:
        if isfinite(self.value) and abs(self.value) >= LARGE:
            return f"{self.value:.1e}".replace("e+0", "e")
        return super().__str__()


@dataclass(frozen=True)
class Fixed(Uncertain):
    """A number and its standard error, both to the same decimals whatever the error is, so that columns align."""

    form: str = ".3f"

    def __str__(self) -> str:
        value = format(self.value, self.form)
        return f"{value} ± {self.stderr:{self.form}}" if isfinite(self.stderr) else value


@dataclass(frozen=True)
class Span(Interval):
    """Two counts, the upper of which may be infinite: ``1,200 to ∞``."""

    def __str__(self) -> str:
        return f"{Unbounded(self.low, ',.0f')} to {Unbounded(self.high, ',.0f')}"


def numbers(values: Iterable[float], form: str = ".3g") -> tuple[Number, ...]:
    """Values that are all shown alike."""
    return tuple(Number(value, form) for value in values)


def settled(value: float, rounding: float) -> float:
    """The value, or 0 where it is within what rounding makes of 0."""
    return 0.0 if abs(value) < rounding else value


def table_of(rows: Iterable[Row], columns: Columns[Row], *, title: str, note: str, words: int = 0) -> Table:
    """A table with a row for each record; all columns but the first `words` are numbers, flush right."""
    names = tuple(columns)
    lines = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(title, note, names, lines, right=names[words:])
