"""Charts as SVG of our own within a page: no library, text as text, and the page's colours, light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

import numpy as np

from kullback.documents import Chart, Panel, Series, visible

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 92, 14, 34, 46
FITS = 12
"""Letters of a name beside the y axis that have room; longer ones are set narrower."""

DASHES = ("", "9 4", "2 3", "10 3 2 3", "5 3")
"""How lines differ beside their colour, as they do in `pictures`."""

COLOURS = 8
"""Colours of the page's style, `--c0` to `--c7`."""

SIDES = (3, 4, 5, 6)
"""Corners of the marks of points, after the circle."""


@dataclass(frozen=True)
class Axis:
    """Where numbers lie between two ends of a panel, in units of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: np.ndarray, start: float, end: float, *, log: bool) -> Axis:
        """One that holds all the numbers that can be shown, and some room."""
        known = values[np.isfinite(values) & ((values > 0) | (not log))]
        scaled = np.log10(known) if log else known
        low, high = (float(scaled.min()), float(scaled.max())) if known.size else (0.0, 1.0)
        room = 0.04 * (high - low) or 0.5 * (abs(high) or 1.0)
        return cls(low - room, high + room, start, end, log)

    def at(self, values: np.ndarray) -> np.ndarray:
        """The places of numbers; nan where there is none."""
        known = np.where((values > 0) | (not self.log), values, np.nan)
        scaled = np.log10(known) if self.log else known
        return np.asarray(self.start + (scaled - self.low) / (self.high - self.low) * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Round numbers within."""
        if self.log and self.high - self.low >= 1:
            every = max(1, round((self.high - self.low) / 5))
            return [10.0**power for power in range(ceil(self.low), floor(self.high) + 1, every)]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        step = _round_step((high - low) / 4)
        first, last = ceil(low / step), floor(high / step)
        return [float(f"{step * n:.12g}") for n in range(first, last + 1)]


def _round_step(wished: float) -> float:
    power = 10.0 ** floor(log10(wished))
    return power * next(size for size in (1, 2, 5, 10) if size * power >= 0.999 * wished)


def svg(chart: Chart, ids: str = "") -> str:
    """A chart as figures side by side and one legend; every name in it begins with `ids`."""
    labels = list(dict.fromkeys(series.label for panel in chart.panels for series in panel.series))
    drawn = [_panel(panel, labels, f"{ids}{number}") for number, panel in enumerate(chart.panels)]
    styles = {series.label: series.style for panel in chart.panels for series in panel.series}
    legend = "".join(_legend(label, styles[label], place) for place, label in enumerate(labels))
    return "\n".join(['<div class="panels">', *drawn, "</div>", f'<p class="legend">{legend}</p>'])


def _panel(panel: Panel, labels: Sequence[str], name: str) -> str:
    x_log, y_log = "x" in panel.log, "y" in panel.log
    x = Axis.of(_all(panel, "x"), LEFT, WIDTH - RIGHT, log=x_log)
    y = Axis.of(_heights(panel), HEIGHT - BOTTOM, TOP, log=y_log)
    ticks = [(tick, _number(tick)) for tick in y.ticks()]
    if panel.names:
        y = Axis(0.5 - len(panel.names), 0.5, HEIGHT - BOTTOM, TOP, log=False)
        ticks = [(float(-place), name) for place, name in enumerate(panel.names)]
    parts = [
        f'<svg class="curves" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-labelledby="{name}-title">',
        f'<title id="{name}-title">{_words(panel.title)}</title>',
        f'<clipPath id="{name}-clip"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" '
        f'height="{HEIGHT - BOTTOM - TOP}"/></clipPath>',
        f'<text class="head" x="{LEFT}" y="20">{_words(panel.title)}</text>',
        *_grid(x, y, ticks),
        *_marks(panel, x),
        f'<g clip-path="url(#{name}-clip)">',
        *(line for series in panel.series for line in _series(series, x, y, labels.index(series.label))),
        "</g>",
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">{_words(panel.x)}</text>',
        f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2:g}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2:g})">{_words(panel.y)}</text>',
        "</svg>",
    ]
    return "\n".join(parts)


def _all(panel: Panel, axis: str) -> np.ndarray:
    marks = [place for place, _ in panel.marks] if axis == "x" else []
    both = [np.where(np.isfinite(one.y), one.x, np.nan) for one in panel.series]
    return np.concatenate([np.array(marks, np.float64), *both, np.empty(0)])


def _heights(panel: Panel) -> np.ndarray:
    """What the y axis has to hold: all numbers, between the bounds that the panel has."""
    values = np.concatenate([np.empty(0), *(series.y for series in panel.series)])
    low, high = (np.nan if bound is None else bound for bound in (panel.bottom, panel.top))
    within = values[np.isfinite(values)]
    within = within[~(within < low) & ~(within > high)]
    return np.concatenate([within, [bound for bound in (low, high) if isfinite(bound)]])


def _grid(x: Axis, y: Axis, named: Sequence[tuple[float, str]]) -> Iterator[str]:
    for tick, name in named:
        at = float(y.at(np.array([tick]))[0])
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        fit = f' textLength="{LEFT - 10}" lengthAdjust="spacingAndGlyphs"' if len(name) > FITS else ""
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end"{fit}>{_words(name)}</text>'
    for tick in x.ticks():
        at = float(x.at(np.array([tick]))[0])
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_number(tick)}</text>'


def _number(value: float) -> str:
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def _marks(panel: Panel, x: Axis) -> Iterator[str]:
    for place, words in panel.marks:
        at = float(x.at(np.array([place]))[0])
        if isfinite(at):
            yield f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            yield (
                f'<text class="mark" x="{at - 4:.1f}" y="{HEIGHT - BOTTOM - 6}" '
                f'transform="rotate(-90 {at - 4:.1f} {HEIGHT - BOTTOM - 6})">{_words(words)}</text>'
            )


def _series(series: Series, x: Axis, y: Axis, place: int) -> Iterator[str]:
    across, up = x.at(series.x), y.at(np.where(np.isfinite(series.y), series.y, np.nan))
    here = np.isfinite(across) & np.isfinite(up)
    look = f'class="c{place % COLOURS}"'
    if series.style != "points":
        dash = "6 4" if series.style == "dashed" else DASHES[place % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        yield f'<path {look}{dashed} d="{_path(across, up, here)}"><title>{_words(series.label)}</title></path>'
    shown = np.flatnonzero(here)
    if series.style == "points" or (series.style == "line" and len(shown) <= 60):
        for at in shown.tolist():
            said = f"{series.label}: {series.x[at]:.4g}, {series.y[at]:.4g}"
            size = 4.5 if series.style == "points" else 2.2
            yield _mark(look, place if series.style == "points" else 0, (across[at], up[at]), size, said)


def _path(across: np.ndarray, up: np.ndarray, here: np.ndarray) -> str:
    """A line that is broken where there is no number."""
    pieces, before = [], False
    for a, u, known in zip(across.tolist(), up.tolist(), here.tolist(), strict=True):
        if known:
            pieces.append(f"{'L' if before else 'M'}{a:.1f} {u:.1f}")
        before = known
    return "".join(pieces)


def _mark(look: str, place: int, at: tuple[float, float], size: float, said: str) -> str:
    title = f"<title>{_words(said)}</title>" if said else ""
    if place % (len(SIDES) + 1) == 0:
        return f'<circle {look} cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{size}">{title}</circle>'
    corners = SIDES[place % (len(SIDES) + 1) - 1]
    turns = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    points = " ".join(f"{at[0] + size * np.cos(t):.1f},{at[1] + size * np.sin(t):.1f}" for t in turns)
    return f'<polygon {look} points="{points}">{title}</polygon>'


def _legend(label: str, style: str, place: int) -> str:
    look = f'class="c{place % COLOURS}"'
    if style == "points":
        drawn = _mark(look, place, (16, 7), 4.5, "")
    else:
        dash = "6 4" if style == "dashed" else DASHES[place % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        drawn = f'<path {look}{dashed} d="M2 7L30 7"/>'
    return (
        f'<span>{_words(label)} <svg class="curves" viewBox="0 0 32 14" width="32" height="14" aria-hidden="true">'
        f"{drawn}</svg></span>"
    )


def _words(text: str) -> str:
    return escape(visible(text))
