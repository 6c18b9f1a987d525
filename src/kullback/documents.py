"""What a job shows besides its numbers, as plain data: tables of text and charts of series.

The rooms below the faces fill them; `kullback.report` draws them on a terminal, in Markdown or as a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kullback.arrays import Float64

Style = Literal["line", "dashed", "points"]


@dataclass(frozen=True)
class Table:
    """A titled table of text."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: tuple[str, ...] = ()
    """Columns that a terminal has no room for."""
    right: tuple[str, ...] = ()
    """Columns of numbers, flush right."""

    def narrow(self) -> Table:
        """The table without its wide columns."""
        kept = [i for i, name in enumerate(self.columns) if name not in self.wide]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Table(self.title, self.note, tuple(self.columns[i] for i in kept), rows, right=self.right)

    def grid(self) -> str:
        """The rows as Markdown, without title and note."""
        rule = ["---:" if name in self.right else "---" for name in self.columns]
        return "\n".join([_line(self.columns), _line(rule), *map(_line, self.rows)])

    def markdown(self) -> str:
        """The table as Markdown."""
        return "\n".join([f"## {self.title}", "", self.note, "", self.grid()])


@dataclass(frozen=True)
class Series:
    """A line or a cloud of dots of a panel.

    Attributes:
        label: what the legend calls it; one label has one colour in all panels.
        x, y: as many numbers each; what is not finite is not drawn.
        style: a line, a dashed line, or points.
    """

    label: str
    x: Float64
    y: Float64
    style: Style = "line"

    @classmethod
    def of(cls, label: str, points: Iterable[tuple[float, float]], style: Style = "line") -> Series:
        """From pairs (x, y)."""
        x, y = np.array([*points], dtype=np.float64).reshape(-1, 2).T
        return cls(label, x, y, style)


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what they show, with units; a log scale on "x", "y", both or neither."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    log: Literal["", "x", "y", "xy"] = ""
    marks: tuple[tuple[float, str], ...] = ()
    """Upright lines at places of x, with words."""
    bottom: float | None = None
    top: float | None = None
    """Where y begins and ends, for curves that go to infinity."""


@dataclass(frozen=True)
class Chart:
    """Panels side by side, and what they show in a sentence, for those who cannot see them."""

    name: str
    text: str
    panels: tuple[Panel, ...]

    def digest(self) -> str:
        """A short hash of all labels and of all numbers to three digits: whether a picture is fresh."""
        return hashlib.sha256("\n".join(self._words()).encode()).hexdigest()[:16]

    def _words(self) -> Iterator[str]:
        yield from (self.name, self.text)
        for panel in self.panels:
            yield from (panel.title, panel.x, panel.y, panel.log, f"{panel.bottom} {panel.top}")
            yield from (f"{x:.3g} {words}" for x, words in panel.marks)
            for series in panel.series:
                yield f"{series.label} {series.style}"
                yield from (f"{x:.3g} {y:.3g}" for x, y in zip(series.x, series.y, strict=True))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
