"""Documents on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import assert_never

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from kullback.documents import (
    Bars,
    Block,
    Chart,
    Code,
    Document,
    Facts,
    Fold,
    Heading,
    HeatMap,
    Item,
    Note,
    Passages,
    Table,
    Tone,
    Verdict,
    text_of,
    visible,
)
from kullback.report.heat import colours
from kullback.report.substitutes import on_screen

STYLES: dict[Tone, str] = {
    "plain": "",
    "quiet": "dim",
    "good": "green",
    "warning": "yellow",
    "bad": "red",
    "hint": "cyan",
}

LINES = box.SIMPLE_HEAD
PLAIN_LINES = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""The same in ASCII, for which `rich` would draw edges, wider than what was measured."""

LEGIBLE = 12
"""Columns of words that are narrower are read letter by letter."""

LONGEST_NAME = 32
"""Characters of a word that is not broken, such as the name of an estimator; what is longer is no word."""


def render(document: Document) -> RenderableType:
    """A document for `rich`; `show` prints it so that code longer than a line is not cut off."""
    parts: list[RenderableType] = []
    if document.title:
        parts.append(_text(document.title, "bold"))
    if document.subtitle:
        parts.append(_text(document.subtitle, "dim"))
    if parts and _apart_from_title(document):
        parts.append(Text())
    for block, after in zip_longest(document.blocks, document.blocks[1:]):
        parts += _drawn(block)
        if after is not None and _apart(block, after):
            parts.append(Text())
    return Group(*parts)


def show(document: Document, console: Console) -> None:
    """Print a document."""
    # Cropping to the width would cut off the code that is to be copied; all else is folded.
    console.print(render(on_screen(document, console.encoding)), crop=False)


def _drawn(block: Block) -> Iterator[RenderableType]:
    match block:
        case Heading():
            yield _text(block.text, "bold")
        case Verdict() | Note():
            yield _text(block.text, STYLES[block.tone])
        case Facts():
            yield _facts(block)
        case Item():
            yield _text(block.label, f"bold {STYLES[block.tone]}")
            notes = (_text(note.text, STYLES[note.tone]) for note in block.notes)
            yield Padding(Group(_text(block.text), *notes), (0, 0, 0, 6))
        case Code():
            yield Text(visible(block.text), no_wrap=True, overflow="ignore")
        case Fold():
            yield _text(block.summary, "dim")
            for each in block.blocks:
                yield from _drawn(each)
        case Table():
            yield from _titled(block, _Grid(_without(block, block.wide)))
        case Chart():
            yield _text(block.text, "dim")
        case HeatMap():
            shades = tuple(("", *map(_shade, row)) for row in colours(block))
            yield from _titled(block, _Grid(block.table, shades))
        case Passages() | Bars():
            return  # of a page that is looked through
        case _:
            assert_never(block)


def _apart_from_title(document: Document) -> bool:
    match document.blocks[:1]:
        case (Heading() | Verdict(),):
            return True
        case (Table() | HeatMap() as first,):
            return bool(first.title)
        case _:
            return False


def _apart(block: Block, after: Block) -> bool:
    """Whether an empty line stands between two blocks; a table without a note ends with one."""
    if isinstance(block, Table | HeatMap) and not block.note:
        return False
    return not (isinstance(block, Heading) or (isinstance(block, Note) and isinstance(after, Note)))


def _titled(block: Table | HeatMap, grid: _Grid) -> Iterator[RenderableType]:
    if block.title:
        yield _text(block.title, "bold")
    yield grid
    if block.note:
        yield _text(block.note, "dim")


def _facts(facts: Facts) -> RichTable:
    drawn = RichTable.grid(padding=(0, 2))
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, cell in facts.rows:
        drawn.add_row(_text(name, "dim"), _text(text_of(cell), STYLES[facts.tone]))
    return drawn


def _without(table: Table, left_out: Sequence[str]) -> Table:
    """The table without some of its columns."""
    kept = [i for i, name in enumerate(table.columns) if name not in left_out]
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows)


@dataclass(frozen=True)
class _Grid:
    """Rows and columns, one table or several below each other, or a paragraph a row where there is no room for that.

    Attributes:
        table: without columns that are never shown.
        styles: of every cell by rows, if cells are coloured.
    """

    table: Table
    styles: Sequence[Sequence[str]] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        pieces = [self] if self._width() <= options.max_width else self._pieces(options.max_width)
        if pieces:
            yield from (piece._columns(PLAIN_LINES if options.ascii_only else LINES) for piece in pieces)
            return
        yield Text()
        yield from self._paragraphs()
        yield Text()

    def _pieces(self, width: int) -> list[_Grid]:
        """Tables one below another, each with the names of the rows and as many of the numbers as there is room for.

        None at all where what follows the names is not all numbers, or not even one column of them fits.
        """
        table = self.table
        names = [name for name in table.columns if name not in table.right]
        numbers = list(table.columns[len(names) :])
        if not numbers or len(set(table.columns)) < len(table.columns) or set(numbers) != set(table.right):
            return []
        pieces: list[_Grid] = []
        while numbers:
            fitting = (self._only([*names, *numbers[:count]]) for count in range(len(numbers), 0, -1))
            piece = next((piece for piece in fitting if piece._width() <= width), None)
            if piece is None:
                return []
            pieces.append(piece)
            numbers = numbers[len(piece.table.columns) - len(names) :]
        return pieces

    def _only(self, columns: Sequence[str]) -> _Grid:
        """Some of the columns, with their colours."""
        kept = [place for place, name in enumerate(self.table.columns) if name in columns]
        left_out = [name for name in self.table.columns if name not in columns]
        return _Grid(_without(self.table, left_out), [[row[place] for place in kept] for row in self.styles])

    def _width(self) -> int:
        """Columns of a terminal from which it can be read."""
        total = 3 * len(self.table.columns) - 1  # gaps and edges
        for place, name in enumerate(self.table.columns):
            texts = (name, *(text_of(row[place]) for row in self.table.rows))
            natural = max(cell_len(line) for text in texts for line in text.split("\n"))
            total += natural if name in self.table.right else min(natural, max(LEGIBLE, _longest_word(texts)))
        return total

    def _columns(self, lines: box.Box) -> RichTable:
        drawn = RichTable(box=lines, pad_edge=False)
        for name in self.table.columns:
            right = name in self.table.right
            drawn.add_column(_text(name), justify="right" if right else "left", no_wrap=right, overflow="fold")
        for row, styles in zip_longest(self.table.rows, self.styles, fillvalue=()):
            cells = zip_longest(row, styles, fillvalue="")
            drawn.add_row(*(_text(text_of(cell), str(style)) for cell, style in cells))
        return drawn

    def _paragraphs(self) -> Iterator[RenderableType]:
        for row in self.table.rows:
            first, *others = map(text_of, row)
            named = zip(self.table.columns[1:], others, strict=True)
            yield _text(first)
            yield Padding(_text(" · ".join(f"{name} {text}" for name, text in named if text)), (0, 0, 0, 4))


def _longest_word(texts: Sequence[str]) -> int:
    """The columns that the longest name takes, up to which a column is not made narrower: names are not broken."""
    return max((cell_len(word) for text in texts for word in text.split() if len(word) <= LONGEST_NAME), default=0)


def _shade(colour: tuple[str, str] | None) -> str:
    return "" if colour is None else f"{colour[1]} on {colour[0]}"


def _text(text: str, style: str = "") -> Text:
    """Words as they are: square brackets are not markup, and no control character comes through."""
    return Text(visible(text), style=style)
