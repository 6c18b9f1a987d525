"""How log-ratios lie, and how heavy their tail is, as bars and a picture that every page of a job can show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Bars, Block, Chart, Panel, Series
from kullback.estimation.tails import HEAVY_TAIL, Tail

BINS = 40

FEWEST = 100
"""Ratios from which on a tail is drawn."""

DRAWN = 48
"""Points of a tail that are drawn: at equal distances on the logarithm of their rank."""


def spread_of(ratios: Float64, *, title: str, what: str, unit: str) -> Iterator[Block]:
    """Bars of numbers such as log-ratios, where there are several.

    Args:
        ratios: of any number of tokens or sequences; what is not finite is left out.
        title: of the picture.
        what: the formula of the numbers.
        unit: what they are of, as "tokens".
    """
    known = ratios[np.isfinite(ratios)]
    if known.size < 2 or known.min() == known.max():
        return
    counts, edges = np.histogram(known, bins=BINS)
    yield Bars(
        title=title,
        note=(
            f"{what} of {known.size:,} {unit}, from {known.min():.3g} to {known.max():.3g}; half of them "
            f"between {np.quantile(known, 0.25):.2g} and {np.quantile(known, 0.75):.2g}. Bars are of log(1 + n)."
        ),
        x=f"{what}, nats",
        y=f"log(1 + {unit})",
        labels=tuple(f"{a:.3g} to {b:.3g}: {n:,} {unit}" for a, b, n in zip(edges, edges[1:], counts, strict=False)),
        heights=np.log1p(counts),
    )


def tail_of(log_ratios: Float64, *, unit: str = "tokens") -> Iterator[Block]:
    """The largest ratios p/q beside a tail of k = 0.7, from which on means of a ratio are not to be trusted.

    Args:
        log_ratios: log q − log p of what q drew.
        unit: what they are of.
    """
    logs = -log_ratios[np.isfinite(log_ratios)]
    tail = Tail.of(logs)
    khat = tail.khat()
    if logs.size < FEWEST or not np.isfinite(khat):
        return
    ordered = np.sort(logs)[::-1]
    ranks = np.unique(np.geomspace(1, logs.size / 2, DRAWN).astype(int))
    size = min(int(min(logs.size / 5, 3 * logs.size**0.5)), logs.size - 1)
    cutoff = float(np.exp(ordered[size]))
    points = [(float(np.exp(ordered[rank - 1])), rank / logs.size) for rank in ranks.tolist()]
    far = max(points[0][0], cutoff * 1.01)
    heavy = [
        (float(x), size / logs.size * float((x / cutoff) ** (-1 / HEAVY_TAIL))) for x in np.geomspace(cutoff, far, 24)
    ]
    yield Chart(
        name="tail",
        text=(
            f"Share of the {unit} whose ratio p/q is larger, and a tail of k = {HEAVY_TAIL} from the same place on. "
            f"The largest {size:,} of {logs.size:,} ratios have k̂ = {khat:.2f}: "
            + (
                "the tail is so heavy that no mean of p/q, and no k2, k3 or control variate, is to be trusted."
                if tail.heavy
                else "points that fall faster than the dashed line are a tail that means can bear."
            )
        ),
        panels=(
            Panel(
                title=f"The tail of p/q, k̂ = {khat:.2f}",
                x="ratio p/q",
                y="share beyond",
                series=(
                    Series.of(f"{unit} here", points, "points"),
                    Series.of(f"k = {HEAVY_TAIL}", heavy, "dashed"),
                ),
                log="xy",
                marks=((cutoff, "the tail begins"),),
            ),
        ),
    )
