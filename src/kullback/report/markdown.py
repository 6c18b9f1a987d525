"""Documents as Markdown.

Words may be Markdown themselves (a link, a name in backticks); what would be HTML is shown and not obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import assert_never

from kullback.documents import (
    Bars,
    Block,
    Cell,
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
    Verdict,
    text_of,
    visible,
)

TAG = re.compile(r"<(?=[A-Za-z][A-Za-z0-9-]*(?:[\s/>]|$)|[/!?])", re.MULTILINE)
"""What begins HTML, as ``i<t`` does not."""


def render(document: Document) -> str:
    """A document as a page that begins with its title."""
    head = [f"# {_line(document.title)}"] if document.title else []
    head += [_words(document.subtitle)] if document.subtitle else []
    return "\n\n".join([*head, *filter(None, map(_written, document.blocks))]) + "\n"


def table(table: Table) -> str:
    """A table below its title and note."""
    parts = [f"## {_line(table.title)}" if table.title else "", _words(table.note), grid(table)]
    return "\n\n".join(part for part in parts if part)


def grid(table: Table) -> str:
    """A table without title and note."""
    rule = ["---:" if name in table.right else "---" for name in table.columns]
    return "\n".join([_row(table.columns), _row(rule), *map(_row, table.rows)])


def _written(block: Block) -> str:
    match block:
        case Heading():
            anchor = f'<a id="{escape(block.anchor)}"></a>\n\n' if block.anchor else ""
            return f"{anchor}{'#' * block.level} {_line(block.text)}"
        case Verdict() | Note() | Chart():
            return _words(block.text)
        case Facts():
            return "\n".join(f"- {_line(name)}: {_line(text_of(cell))}" for name, cell in block.rows)
        case Item():
            return " ".join(
                [f"- **{_line(block.label)}**: {_line(block.text)}", *(_line(note.text) for note in block.notes)]
            )
        case Code():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            return f"{fence}{block.language}\n{visible(block.text)}\n{fence}"
        case Fold():
            inside = "\n\n".join(map(_written, block.blocks))
            return f"<details>\n<summary>{_line(block.summary)}</summary>\n\n{inside}\n\n</details>"
        case Table():
            return table(block)
        case HeatMap():
            return table(block.table)
        case Passages() | Bars():
            return ""  # of no use where nothing can be pointed at
        case _:
            assert_never(block)


def _row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(cell: Cell) -> str:
    # A backslash before a bar would undo the bar's own.
    text = re.sub(r"\\+(?=\|)", lambda found: "&#92;" * len(found[0]), _line(text_of(cell)))
    return text.replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(_words(text).split("\n"))


def _words(text: str) -> str:
    return TAG.sub("&lt;", visible(text))
