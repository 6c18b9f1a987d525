"""Estimates for people, as documents that any face can draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kullback.documents import Cell, Chart, Document, Facts, Interval, Note, Number, Panel, Series, Verdict, text_of
from kullback.errors import InputError
from kullback.estimation.result import Estimate

POPULATION, HERE = "prompts drawn anew", "these prompts"
"""Whom an interval speaks of."""

APART = 0.12
"""Between the two intervals of one estimate, in rows."""


def page(found: Estimate) -> Document:
    """The value with both errors, and everything there is to warn of."""
    warnings = (Note(sentence, tone="warning") for sentence in found.warnings)
    return Document(title="", blocks=(Verdict(str(found)), *warnings, Facts(tuple(_facts(found)))))


def _facts(found: Estimate) -> Iterator[tuple[str, Cell]]:
    yield "95% interval", Interval(*found.interval())
    if found.given_prompts is not None:
        here = found.given_prompts
        yield "for these very prompts", f"± {here.stderr:.2g}, {text_of(Interval(*here.interval()))}"
    yield "estimator", f"{found.estimator}, {found.level} level"
    yield "independent", f"{found.clusters:,} of {found.n:,} sequences"
    yield "effective sequences", Number(found.ess, ".4g")
    yield "k̂", Number(found.khat, ".2f")


def interval_chart(estimates: Sequence[Estimate], names: Sequence[str]) -> Chart:
    """Estimates below each other, each with its 95% interval, and the one for these prompts where it is known.

    Raises:
        InputError: none has a finite value.
    """
    bars: dict[str, list[tuple[float, float]]] = {POPULATION: [], HERE: []}
    values = []
    for place, one in enumerate(estimates):
        values.append((one.value, -place))
        ends = {POPULATION: one.interval()} | ({HERE: one.given_prompts.interval()} if one.given_prompts else {})
        for what, (low, high) in ends.items():
            y = -place + (APART if what is HERE else -APART)
            bars[what] += [(low, y), (high, y), (float("nan"), float("nan"))]
    if not np.isfinite([value for value, _ in values]).any():
        raise InputError("there is no picture of estimates that are not finite: to_frame() has what is known")
    lines = [Series.of(what, points) for what, points in bars.items() if points]
    panel = Panel(
        title="",
        x=f"nats a {estimates[0].unit}",
        y="",
        series=(*lines, Series.of("value", values, style="points")),
        names=tuple(names),
    )
    return Chart("intervals", f"Estimates and their 95% intervals: {', '.join(names)}.", (panel,))
