"""Charts as PNG and SVG, the same bytes for the same numbers; colours that colour-blind readers tell apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.documents import Chart, Panel, Series, visible
from kullback.errors import FileError, MissingPackageError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Look = dict[str, Any]
"""How a line is drawn: keywords of matplotlib's."""

COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C7A00", "#882255", "#808080")
"""Okabe & Ito's palette, its yellow darkened to be seen on white, with wine and grey; line and marker differ too."""

DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DOTS_A_INCH = 110

STYLE: Any = {
    "font.size": 16,
    "axes.titlesize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text that can be selected, searched and read aloud
    "svg.hashsalt": "kullback",
    "lines.linewidth": 2.4,
    "lines.markersize": 9,
}


def require_matplotlib() -> None:
    """Say that it is missing before minutes of work, not after.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingPackageError("matplotlib", "report") from None


def draw(chart: Chart, paths: Sequence[str | Path]) -> None:
    """Write a chart to files, PNG or SVG by their names.

    Raises:
        MissingPackageError: matplotlib is not installed.
        FileError: a file cannot be written.
    """
    with _drawn(chart) as figure:
        for path in map(Path, paths):
            try:
                figure.savefig(path, metadata=_metadata(chart, path.suffix))
            except OSError as error:
                raise FileError(
                    f"{path} cannot be written ({error.strerror or error}): choose another --output"
                ) from error


def svg(chart: Chart, ids: str = "") -> str:
    """A chart as SVG within a page, where every name in it begins with `ids`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with _drawn(chart) as figure:
        written = StringIO()
        figure.savefig(written, format="svg", metadata=_metadata(chart, ".svg"))
    text = written.getvalue()
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{ids}", text[text.index("<svg") :].rstrip())


@contextmanager
def _drawn(chart: Chart) -> Iterator[Figure]:
    """The chart as a figure, to be saved in the style that it was drawn in."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with matplotlib.rc_context(STYLE):
        labels = list(dict.fromkeys(series.label for panel in chart.panels for series in panel.series))
        across = min(2, len(chart.panels))
        down = -(-len(chart.panels) // across)
        named = max(len(panel.names) for panel in chart.panels)
        wide, high = (9.0, 1.0 + 0.6 * named) if named else (5.0, 4.0)
        figure = Figure(figsize=(wide * across, high * down), dpi=DOTS_A_INCH, layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for spare in axes[len(chart.panels) :]:
            spare.remove()
        looks: dict[str, Look] = {label: {"linestyle": ""} for label in labels}
        for panel, ax in zip(chart.panels, axes, strict=False):
            _panel(panel, ax, looks)
        handles = [Line2D([], [], **look) for look in looks.values()]
        lines = _legend(figure, handles, [_words(label) for label in labels])
        figure.set_size_inches(wide * across, high * down + 0.3 + 0.34 * lines)
        yield figure


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> int:
    """Put the legend below the panels, in as many columns as the picture is wide; how many lines that takes."""
    most = min(4, len(labels))
    for columns in range(most, 0, -1):
        lines = -(-len(labels) // columns)
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // lines))
        # Text stays text, and a reader's font may be a tenth wider than the one that measures here.
        if columns == 1 or 1.1 * legend.get_window_extent().width <= figure.bbox.width:
            return lines
        legend.remove()
    return 0


def _panel(panel: Panel, ax: Axes, looks: dict[str, Look]) -> None:
    """Draw a panel, and note how each label looks, for the legend."""
    ax.set(title=_words(panel.title), xlabel=_words(panel.x), ylabel=_words(panel.y))
    ax.set_xscale("log" if "x" in panel.log else "linear")
    ax.set_yscale("log" if "y" in panel.log else "linear")
    for series in panel.series:
        look = _look(series, list(looks).index(series.label))
        if panel.names and look["linestyle"]:
            look["linestyle"] = "-"  # a bar, which has to be seen to its end
        looks[series.label] |= {key: value for key, value in look.items() if value != ""}
        ax.plot(series.x, np.where(np.isfinite(series.y), series.y, np.nan), **look)
    if panel.bottom is not None or panel.top is not None:
        ax.set_ylim(panel.bottom, panel.top)
    if panel.names:
        ax.set_yticks([-place for place in range(len(panel.names))], [_words(name) for name in panel.names])
        ax.set_ylim(0.5 - len(panel.names), 0.5)
    for x, words in panel.marks:
        ax.axvline(x, color="#666666", linewidth=1.2, linestyle=":")
        ax.annotate(
            _words(words),
            (x, 0.04),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=13,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )


def _words(text: str) -> str:
    """Words that matplotlib takes for no formula."""
    return visible(text).replace("$", "\\$")


def _look(series: Series, place: int) -> Look:
    colour = COLOURS[place % len(COLOURS)]
    if series.style == "line":
        return {"color": colour, "linestyle": DASHES[place % len(DASHES)]}
    if series.style == "dashed":
        return {"color": colour, "linestyle": "--"}
    # Open markers, so that those beneath are seen.
    marker = {"marker": MARKERS[place % len(MARKERS)], "markerfacecolor": "none", "markeredgewidth": 2.2}
    return {"color": colour, "linestyle": "", **marker}


def _metadata(chart: Chart, suffix: str) -> dict[str, str | None]:
    # No date and no version, so that the file changes only where the picture does.
    name, text = visible(chart.name), visible(chart.text)
    if suffix == ".svg":
        return {"Date": None, "Title": name, "Description": f"{text} [{chart.digest()}]"}
    return {"Software": None, "Title": name, "Description": text}
