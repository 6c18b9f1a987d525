"""Colours of a heat-map's cells, the same on every face."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

from kullback.documents import HeatMap

PALE, DARK = (247, 251, 255), (8, 48, 107)
"""From white to blue, which colour-blind readers and grey printers tell apart."""


INKED = 0.65
"""The shade from which on white is easier to read than black: both have 4.6 times its light or its dark here."""


def colours(heat: HeatMap) -> Iterator[tuple[tuple[str, str] | None, ...]]:
    """Of every cell by rows the background and the ink as ``#rrggbb``; None where there is no number."""
    for row in heat.shades.tolist():
        yield tuple(
            None if isnan(shade) else (_mixed(shade), "#ffffff" if shade > INKED else "#000000") for shade in row
        )


def _mixed(shade: float) -> str:
    return "#" + "".join(f"{round(pale + shade * (dark - pale)):02x}" for pale, dark in zip(PALE, DARK, strict=True))
