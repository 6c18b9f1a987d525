"""What a job has to say, as plain data: headings, a verdict, notes, facts, tables, charts and heat-maps.

Jobs write documents, and the faces in `kullback.report` draw them on a terminal, in Markdown or in HTML without
knowing which job wrote them. Numbers stay numbers, each with the form it is shown in: `text_of` is the one place that
rounds, so no face reads a number out of prose or rounds what another one rounded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import floor, inf, isfinite, isnan, log10
from typing import Any, Literal, Protocol

import numpy as np

from kullback.arrays import Float64

Record = dict[str, Any]
"""Plain values for JSON."""

Tone = Literal["plain", "quiet", "good", "warning", "bad", "hint"]
"""What a passage is to its reader; a face has a colour for each."""

Style = Literal["line", "dashed", "points"]

MISSING = "–"
"""What stands where a number is not to be had."""


@dataclass(frozen=True)
class Number:
    """A number and how it is shown: a format of Python's, such as ``.3g``, ``,.0f`` or ``.2%``, and a unit."""

    value: float
    form: str = ".4g"
    unit: str = ""

    def __str__(self) -> str:
        return format(self.value, self.form) + self.unit if isfinite(self.value) else MISSING


@dataclass(frozen=True)
class Uncertain:
    """A number with its standard error, shown to two digits of the error, three at most: ``2.81 ± 0.20``.

    Example:
        >>> print(Uncertain(2.8123, 0.2), "|", Uncertain(3.845e-7, 9.6e-9), "|", Uncertain(2.3e-4, float("nan")))
        2.81 ± 0.20 | (3.845 ± 0.096) × 10⁻⁷ | 0.00023
    """

    value: float
    stderr: float

    def __str__(self) -> str:
        if not isfinite(self.value) or isnan(self.stderr):
            return _alone(self.value)
        if not 0 < self.stderr < inf:
            return f"{_alone(self.value)} ± {self.stderr:g}"
        power = _power(max(abs(self.value), self.stderr), self.stderr)
        value, stderr = self.value / 10.0**power, self.stderr / 10.0**power
        digits = _decimals(stderr)
        shown = f"{value:z.{digits}f} ± {stderr:.{digits}f}"
        return f"({shown}){_times(power)}" if power else shown


@dataclass(frozen=True)
class Interval:
    """Two bounds, shown to two digits of the width; `scale` and `unit` as in 100 and ``%``."""

    low: float
    high: float
    scale: float = 1.0
    unit: str = ""

    def __str__(self) -> str:
        low, high = self.scale * self.low, self.scale * self.high
        if isnan(low) or isnan(high):
            return MISSING
        if not 0 < high - low < inf:
            return f"[{_alone(low)}{self.unit}, {_alone(high)}{self.unit}]"
        power = _power(max(abs(low), abs(high)), high - low)
        low, high = low / 10.0**power, high / 10.0**power
        digits = min(12, _decimals(high - low))
        shown = f"[{low:z.{digits}f}{self.unit}, {high:z.{digits}f}{self.unit}]"
        return f"{shown}{_times(power)}" if power else shown


def _alone(value: float) -> str:
    """A number without an error: three digits, whatever its size."""
    if isnan(value):
        return MISSING
    if not isfinite(value) or value == 0:
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    power = floor(log10(float(f"{abs(value):.2e}")))  # of what is shown: 9.997e-7 is 1.00 × 10⁻⁶
    return f"{value / 10.0**power:.3g}{_times(power)}"


def _power(largest: float, error: float) -> int:
    """The power of ten to take out, so that neither many noughts stand before the digits nor many behind."""
    return floor(log10(float(f"{largest:.1e}"))) if 0 < largest < 1e-4 or error >= 999.5 else 0


def _decimals(error: float) -> int:
    """Decimals that show two digits of an error, and two decimals where that makes three digits at most."""
    size = floor(log10(float(f"{error:.1e}")))
    return 2 if size == 0 else max(0, 1 - size)


def _times(power: int) -> str:
    return " × 10" + str(power).translate(RAISED)


NOTHING = 1e-12
"""A number this far below the largest of its panel is rounding."""

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Link:
    """Words that lead to a place on the same page, where a face has such places; elsewhere words alone."""

    text: str
    place: str

    def __str__(self) -> str:
        return self.text


Cell = str | Number | Uncertain | Interval | Link
"""What stands in a table or beside a fact: words, or numbers that are still numbers."""


def text_of(cell: Cell) -> str:
    """A cell as every face shows it."""
    return visible(str(cell))


UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What moves the cursor, turns the line round or is not to be seen: control characters but for tab and newline, marks
and overrides of order, empty spaces, tags, and halves of pairs, which no encoding has. Joiners stay: words need them.
"""


def visible(text: str) -> str:
    r"""Text as it can be shown: a model may print an escape sequence, and a terminal would obey it.

    Example:
        >>> visible("\x1b[2J")
        '\\x1b[2J'
    """
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def json_of(record: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""A record as JSON in which no character is left that a terminal would obey; numbers not finite become null.

    Example:
        >>> json_of({"token": "\x9b2J‖"})
        '{"token": "\\u009b2J‖"}'
    """
    written = json.dumps(plain(record), indent=indent, ensure_ascii=ascii_only)
    # DEL is ASCII, which json leaves as it is.
    return UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f"), written)


@dataclass(frozen=True)
class Heading:
    """A heading within a document; level 2 is a section, and links lead to an anchor."""

    text: str
    level: int = 2
    anchor: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer in one or two sentences."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and what is so, one a line."""

    rows: tuple[tuple[str, Cell], ...]
    tone: Tone = "plain"


@dataclass(frozen=True)
class Item:
    """One thing that was found: its code or name, what it is, and notes on why it matters and what to do."""

    label: str
    text: str
    notes: tuple[Note, ...] = ()
    tone: Tone = "bad"


@dataclass(frozen=True)
class Code:
    """Lines to copy, never wrapped."""

    text: str
    language: str = "python"


@dataclass(frozen=True)
class Fold:
    """Blocks for those who ask, below a line that says what they are; a face that cannot fold shows them."""

    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Table:
    """A titled table: one cell a column in every row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    wide: tuple[str, ...] = ()
    """Columns that a terminal has no room for."""
    right: tuple[str, ...] = ()
    """Columns of numbers, flush right."""


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
    names: tuple[str, ...] = ()
    """What stands at y = 0, −1, −2, … in place of numbers."""


@dataclass(frozen=True)
class Chart:
    """Panels side by side, and what they show in a sentence, for those who cannot see them."""

    name: str
    text: str
    panels: tuple[Panel, ...]

    def digest(self) -> str:
        """A short hash of all labels and of all numbers to three digits: whether a picture is fresh.

        What is nothing beside the rest of its panel is 0: a bias of 0 is 4e-16 on one processor, −2e-16 on another.
        """
        return hashlib.sha256("\n".join(self._words()).encode()).hexdigest()[:16]

    def _words(self) -> Iterator[str]:
        yield from (self.name, self.text)
        for panel in self.panels:
            yield from (panel.title, panel.x, panel.y, panel.log, f"{panel.bottom} {panel.top}", *panel.names)
            yield from (f"{x:.3g} {words}" for x, words in panel.marks)
            seen = [abs(y) for series in panel.series for y in series.y if isfinite(y)]
            nothing = NOTHING * max(seen, default=0.0)
            for series in panel.series:
                yield f"{series.label} {series.style}"
                shown = (0.0 if abs(y) < nothing else y for y in series.y)
                yield from (f"{x:.3g} {y:.3g}" for x, y in zip(series.x, shown, strict=True))


@dataclass(frozen=True)
class HeatMap:
    """A matrix of numbers, darker where larger: rows by columns, each with its label."""

    title: str
    note: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float64
    form: str = ".3g"

    @property
    def table(self) -> Table:
        """The same as a table."""
        rows = zip(self.rows, self.values.tolist(), strict=True)
        cells: list[tuple[Cell, ...]] = [(name, *(Number(value, self.form) for value in row)) for name, row in rows]
        return Table(self.title, self.note, ("", *self.columns), tuple(cells), right=self.columns)

    @property
    def shades(self) -> Float64:
        """From 0, the smallest number, to 1, the largest; nan where there is none."""
        known = np.where(np.isfinite(self.values), self.values, np.nan)
        if np.all(np.isnan(known)):
            return known
        low, high = np.nanmin(known), np.nanmax(known)
        return (known - low) / (high - low) if high > low else np.where(np.isnan(known), np.nan, 0.0)


@dataclass(frozen=True)
class Channel:
    """What is known of every token of a passage.

    Attributes:
        name, unit: what it is called, and what it is in.
        signed: whether 0 stands in the middle of its numbers.
    """

    name: str
    unit: str
    signed: bool = False


@dataclass(frozen=True)
class Likely:
    """What a model finds likeliest at each token of a passage, likeliest first.

    Attributes:
        who: the model.
        words: the numbers of words of the passages, (tokens, k).
        logprobs: their log-probs in nats, (tokens, k); −inf where a word cannot come.
    """

    who: str
    words: np.ndarray
    logprobs: Float64


@dataclass(frozen=True)
class Passage:
    """One sequence, token by token.

    Attributes:
        group: the number of its group.
        name: what tells it from the others of its group.
        tokens: their texts.
        values: (channels, tokens); nan where there is no number.
        likely: what each model finds likeliest, where that is known.
    """

    group: int
    name: str
    tokens: tuple[str, ...]
    values: Float64
    likely: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class PassageGroup:
    """What several passages share, such as their prompt: its text, its number, and how many there are in all."""

    text: str
    value: float
    count: int


@dataclass(frozen=True)
class Passages:
    """Sequences to be read token by token, for a face that can be pointed at; the others leave them out.

    Attributes:
        title, note: what they are, and which of how many.
        channels: what is known of every token.
        groups: in the order of their passages.
        unit: of the groups' numbers.
        passages: those of a group one after another.
        words: the texts that likely words are numbers of.
    """

    title: str
    note: str
    channels: tuple[Channel, ...]
    groups: tuple[PassageGroup, ...]
    unit: str
    passages: tuple[Passage, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bars:
    """Amounts beside each other, as along positions or of a distribution.

    Attributes:
        title, note: what they show.
        x, y: what the axes are.
        labels: of each bar.
        heights: none is negative; nan where there is none.
    """

    title: str
    note: str
    x: str
    y: str
    labels: tuple[str, ...]
    heights: Float64


Block = Heading | Verdict | Note | Facts | Item | Code | Fold | Table | Chart | HeatMap | Passages | Bars


@dataclass(frozen=True)
class Document:
    """Everything a job has to say, in reading order."""

    title: str
    blocks: tuple[Block, ...]
    subtitle: str = ""

    @property
    def tables(self) -> tuple[Table, ...]:
        """Its tables, in order."""
        return tuple(block for block in self.blocks if isinstance(block, Table))

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Its charts, in order."""
        return tuple(block for block in self.blocks if isinstance(block, Chart))


class Outcome(Protocol):
    """What a job returns: numbers for machines and a document for people."""

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        ...

    def document(self) -> Document:
        """What it has to say."""
        ...


def plain(record: Any) -> Any:
    """A record of dicts, lists and numbers as JSON knows them: numbers that are not finite become None."""
    if isinstance(record, Mapping):
        return {key: plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(value) for value in record]
    if isinstance(record, float):
        return float(record) if isfinite(record) else None
    return record
