"""Documents within a notebook's cell, records as data frames, charts that show themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from kullback.documents import Chart, Document, Record
from kullback.errors import InputError, MissingPackageError, shown
from kullback.report import html
from kullback.report.pictures import draw, require_matplotlib, svg

STYLE = """\
.kullback { max-width: 60rem; line-height: 1.45; }
.kullback h1 { font-size: 1.2em; margin: 0.4em 0 0; }
.kullback h2, .kullback h3 { font-size: 1.05em; margin: 0.8em 0 0.2em; }
.kullback p, .kullback dd, .kullback td { white-space: pre-line; }
.kullback .verdict { font-size: 1.1em; font-weight: bold; }
.kullback .quiet { opacity: 0.75; }
.kullback .warning { border-left: 3px solid #d55e00; padding-left: 0.6em; }
.kullback .bad { border-left: 3px solid #b31d28; padding-left: 0.6em; }
.kullback .label { font-weight: bold; margin-bottom: 0; }
.kullback .item p { margin: 0.2em 0 0.2em 1.5em; }
.kullback .item .label { margin-left: 0; }
.kullback .wide, .kullback figure { overflow-x: auto; margin: 0.8em 0; }
.kullback figure svg { max-width: 100%; height: auto; }
.kullback .panels { display: flex; flex-wrap: wrap; gap: 1em; }
.kullback .panels svg { width: 30em; }
.kullback .legend span { display: inline-flex; flex-direction: row-reverse; gap: 0.4em; margin-right: 1.2em; }
.kullback .curves text { fill: currentColor; font-size: 13px; }
.kullback .curves .grid { stroke: currentColor; opacity: 0.15; }
.kullback .curves line.mark { stroke: currentColor; stroke-dasharray: 2 3; opacity: 0.6; }
.kullback .curves path { fill: none; stroke-width: 2; }
.kullback .curves circle, .kullback .curves polygon { fill: none; stroke-width: 1.6; }
.kullback .c0 { stroke: currentColor; } .kullback .c1 { stroke: #d08700; } .kullback .c2 { stroke: #2b8fd0; }
.kullback .c3 { stroke: #00a074; } .kullback .c4 { stroke: #c9609b; } .kullback .c5 { stroke: #d55e00; }
.kullback .c6 { stroke: #4aa5d8; } .kullback .c7 { stroke: #9a8610; }
.kullback .bars { width: 30em; }
.kullback .bars text { fill: currentColor; font-size: 13px; }
.kullback .bars rect { fill: #2b8fd0; }
.kullback .bars line { stroke: currentColor; }
.kullback table { border-collapse: collapse; margin: 0.3em 0; }
.kullback caption { text-align: left; font-weight: bold; }
.kullback th, .kullback td { text-align: left; vertical-align: top; padding: 0.15em 0.7em; }
.kullback .right { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.kullback dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15em 1.2em; }
.kullback dd { margin: 0; }
"""
"""Every rule below one class, and ink and paper those of the notebook, which may be dark."""


def fragment(document: Document) -> str:
    """A document as part of somebody else's page: no script, no rule that reaches beyond it, no name used twice.

    Example:
        >>> fragment(Document(title="", blocks=())).startswith('<div class="kullback">')
        True
    """
    # A notebook is one page of many cells: the same name in two of them would draw one picture by the other's parts.
    ids = f"k{sha256(repr(document).encode()).hexdigest()[:8]}-"
    return f'<div class="kullback">\n<style>\n{STYLE}</style>\n{html.body(document, ids=ids)}\n</div>'


def frame(records: Sequence[Record], library: str | None = None) -> Any:
    """Records as a data frame of pandas or polars, whichever is installed.

    Example:
        >>> frame([{"a": 1, "b": {"c": 2.0}}], "pandas").columns.tolist()
        ['a', 'b.c']

    Raises:
        InputError: another library's name.
        MissingPackageError: the library is not installed, or none of them.
    """
    if library not in (None, *FRAMES):
        raise InputError(f"library={shown(library)} came, but a frame is of {' or '.join(FRAMES)}")
    rows = [dict(_flat(record)) for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name in [library] if library else FRAMES:
        try:
            module = import_module(name)
        except ImportError:
            continue
        return FRAMES[name](module, columns)
    raise MissingPackageError(library or "pandas or polars", "frames")


FRAMES: Mapping[str, Callable[[Any, dict[str, list[Any]]], Any]] = {
    "pandas": lambda pandas, columns: pandas.DataFrame(columns),
    "polars": lambda polars, columns: polars.DataFrame(columns, strict=False),
}


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A record's scalars and lists of them; lists of records have no place in a row."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(dict(value), f"{prefix}{name}.")
        elif not isinstance(value, list | tuple):
            yield prefix + name, value
        elif not any(isinstance(each, Mapping | list | tuple) for each in value):
            yield prefix + name, list(value)


@dataclass(frozen=True)
class Picture:
    """A chart that a notebook shows.

    Example:
        >>> import numpy as np
        >>> from kullback.documents import Panel, Series
        >>> line = Series("k1", np.array([1.0, 2.0]), np.array([0.1, 0.2]))
        >>> Picture(Chart("example", "A line.", (Panel("", "n", "nats", (line,)),)))
        <Picture: A line.>
    """

    chart: Chart

    def __post_init__(self) -> None:
        require_matplotlib()

    def _repr_svg_(self) -> str:
        return svg(self.chart, ids=f"k{self.chart.digest()}-")

    def save(self, path: str | Path) -> None:
        """Write it, PNG or SVG by the name.

        Raises:
            FileError: the file cannot be written.
        """
        draw(self.chart, [path])

    def __repr__(self) -> str:
        return f"<Picture: {self.chart.text}>"
