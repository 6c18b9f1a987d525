"""Bars as SVG of our own, which needs no library and follows the page's colours."""

from __future__ import annotations

from html import escape

import numpy as np

from kullback.documents import Bars, visible

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 220, 64, 44, 12


def svg(bars: Bars) -> str:
    """One figure; every bar says what it is when it is pointed at."""
    heights = np.where(np.isfinite(bars.heights), bars.heights, 0.0)
    top = float(heights.max(initial=0.0)) or 1.0
    step = (WIDTH - LEFT - 8) / max(len(heights), 1)
    room = HEIGHT - BOTTOM - TOP
    drawn = [
        f'<rect x="{LEFT + place * step + 0.5:.1f}" y="{TOP + room * (1 - height / top):.1f}" '
        f'width="{max(step - 1, 1):.1f}" height="{room * height / top:.1f}"><title>{_words(name)}: {value:.3g}'
        "</title></rect>"
        for place, (name, height, value) in enumerate(zip(bars.labels, heights, bars.heights, strict=True))
    ]
    ends = [(LEFT, "start", 0), (WIDTH - 8, "end", -1)] if bars.labels else []
    names = [
        f'<text x="{x}" y="{HEIGHT - 24}" text-anchor="{anchor}">{_words(_short(bars.labels[which]))}</text>'
        for x, anchor, which in ends
    ]
    return "\n".join(
        [
            f'<svg class="bars" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{_words(bars.title)}">',
            f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>',
            f'<text x="{LEFT - 6}" y="{TOP + 10}" text-anchor="end">{top:.2g}</text>',
            f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">0</text>',
            f'<text x="14" y="{TOP + room / 2}" text-anchor="middle" transform="rotate(-90 14 {TOP + room / 2})">'
            f"{_words(bars.y)}</text>",
            *drawn,
            *names,
            f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{_words(bars.x)}</text>',
            "</svg>",
        ]
    )


def _short(label: str) -> str:
    """A label at an end of the axis: without what it says of its bar alone."""
    return label.split(":")[0]


def _words(text: str) -> str:
    return escape(visible(text))
