"""Documents as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from itertools import zip_longest
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
    Link,
    Note,
    Passages,
    Table,
    Verdict,
    text_of,
    visible,
)
from kullback.report import bars, curves, passages
from kullback.report.heat import colours

SORTED = 3
"""Rows from which on a table can be sorted, here and in page.js."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>{script}
</body>
</html>
"""


def render(document: Document) -> str:
    """A document as a page."""
    title = _safe(document.title or "kullback")
    script = f"\n<script>\n{_file('page.js')}</script>" if any(map(_moves, document.blocks)) else ""
    return PAGE.format(title=title, style=_file("page.css"), body=body(document), script=script)


def body(document: Document, ids: str = "b") -> str:
    """What is within the page; names in it begin with `ids`."""
    head = [f"<h1>{_safe(document.title)}</h1>"] if document.title else []
    head += [_paragraph(document.subtitle, "quiet")] if document.subtitle else []
    return "\n".join([*head, *(_written(block, f"{ids}{number}-") for number, block in enumerate(document.blocks))])


def _moves(block: Block) -> bool:
    """Whether there is anything in it for a script to do: to sort, or to show token by token."""
    match block:
        case Passages():
            return True
        case Table() | HeatMap():
            return len(block.rows) >= SORTED
        case Fold():
            return any(map(_moves, block.blocks))
        case _:
            return False


@cache
def _file(name: str) -> str:
    """What stands in a page as it is."""
    return (files("kullback.report") / "page" / name).read_text(encoding="utf-8")


def _written(block: Block, ids: str) -> str:
    """A block; `ids` is what names within it begin with, so that no other block has them."""
    match block:
        case Heading():
            anchor = f' id="{_safe(block.anchor)}"' if block.anchor else ""
            return f"<h{block.level}{anchor}>{_safe(block.text)}</h{block.level}>"
        case Verdict():
            return _paragraph(block.text, f"verdict {block.tone}")
        case Note():
            return _paragraph(block.text, block.tone)
        case Facts():
            rows = (f"<dt>{_safe(name)}</dt><dd>{_safe(text_of(cell))}</dd>" for name, cell in block.rows)
            return "\n".join([f'<dl class="{block.tone}">', *rows, "</dl>"])
        case Item():
            words = [_paragraph(block.label, f"label {block.tone}"), _paragraph(block.text, "plain")]
            words += [_paragraph(note.text, note.tone) for note in block.notes]
            return "\n".join(['<section class="item">', *words, "</section>"])
        case Code():
            return f'<pre tabindex="0"><code>{_safe(block.text)}</code></pre>'
        case Fold():
            inside = "\n".join(_written(each, f"{ids}{i}-") for i, each in enumerate(block.blocks))
            return f"<details>\n<summary>{_safe(block.summary)}</summary>\n{inside}\n</details>"
        case Table():
            return _table(block)
        case Chart():
            return _chart(block, ids)
        case HeatMap():
            return _table(block.table, [("", *map(_shade, row)) for row in colours(block)])
        case Passages():
            return passages.written(block)
        case Bars():
            head = f"<h2>{_safe(block.title)}</h2>"
            return "\n".join(
                [head, "<figure>", bars.svg(block), f"<figcaption>{_safe(block.note)}</figcaption>", "</figure>"]
            )
        case _:
            assert_never(block)


def _table(table: Table, styles: Sequence[Sequence[str]] = ()) -> str:
    sides = [' class="right"' if name in table.right else "" for name in table.columns]
    names = zip(table.columns, sides, strict=True)
    head = "".join(f"<th{side}>{_safe(name)}</th>" if name else "<td></td>" for name, side in names)
    rows = []
    for row, looks in zip_longest(table.rows, styles, fillvalue=()):
        cells = zip_longest(row, sides, looks, fillvalue="")
        rows.append("<tr>" + "".join(f"<td{side}{look}>{_cell(cell)}</td>" for cell, side, look in cells))
    title = [f"<caption>{_safe(table.title)}</caption>"] if table.title else []
    body = ["<thead>", f"<tr>{head}</tr>", "</thead>", "<tbody>", *(f"{row}</tr>" for row in rows), "</tbody>"]
    note = [_paragraph(table.note, "quiet")] if table.note else []
    # Wider than the page it is scrolled, by keys too: where it has no button to stand on, on itself.
    reached = "" if len(table.rows) >= SORTED else ' tabindex="0"'
    return "\n".join([f'<div class="wide"{reached}>', "<table>", *title, *body, "</table>", *note, "</div>"])


def _cell(cell: Cell) -> str:
    return f'<a href="#{_safe(cell.place)}">{_safe(cell.text)}</a>' if isinstance(cell, Link) else _safe(text_of(cell))


def _chart(chart: Chart, ids: str) -> str:
    caption = f"<figcaption>{_safe(chart.text)}</figcaption>"
    return "\n".join(["<figure>", curves.svg(chart, ids), caption, "</figure>"])


def _shade(colour: tuple[str, str] | None) -> str:
    return "" if colour is None else f' style="background:{colour[0]};color:{colour[1]}"'


def _paragraph(text: str, looks: str) -> str:
    return f'<p class="{looks}">{_safe(text)}</p>'


def _safe(text: str) -> str:
    return escape(visible(text))
