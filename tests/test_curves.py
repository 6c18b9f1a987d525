"""Charts as SVG of our own: every number stands where its axis says, and what is no number is not drawn."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kullback.documents import Chart, Panel, Series
from kullback.report import curves

CIRCLE = re.compile(r'<circle class="c\d" cx="([\d.]+)" cy="([\d.]+)"')


def drawn(*series: Series, **options: object) -> str:
    return curves.svg(Chart("t", "", (Panel("p", "x", "y", series, **options),)))  # type: ignore[arg-type]


def places(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in CIRCLE.findall(svg.split('<p class="legend">')[0])]


def ticks(svg: str, anchor: str) -> dict[str, float]:
    """Numbers beside the axis, and where they stand: those of y end at it, those of x are around their place."""
    at = "y" if anchor == "end" else "x"
    found = re.findall(rf'<text x="([\d.]+)" y="([\d.]+)" text-anchor="{anchor}">([^<]*)</text>', svg)
    return {text: float(y) - 4 if at == "y" else float(x) for x, y, text in found if re.match(r"[−\d]", text)}


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_a_point_stands_where_the_ticks_say(log: str) -> None:
    values = [(1.0, 1.0), (10.0, 100.0), (1000.0, 10000.0)]
    svg = drawn(Series.of("k1", values, "points"), log=log)
    for axis, anchor, column in (("x", "middle", 0), ("y", "end", 1)):
        marks = {float(text.replace("−", "-")): at for text, at in ticks(svg, anchor).items()}
        (low, a), (high, b) = sorted(marks.items())[0], sorted(marks.items())[-1]
        scale = np.log if axis in log else float
        for value, place in zip(values, places(svg), strict=True):
            share = (scale(value[column]) - scale(low)) / (scale(high) - scale(low))
            assert place[column] == pytest.approx(a + share * (b - a), abs=0.2)


def test_a_line_breaks_where_there_is_no_number() -> None:
    svg = drawn(Series.of("k1", [(0, 1), (1, float("nan")), (2, 3), (3, 4)]))
    [path] = re.findall(r' d="([^"]*)"><title>', svg)
    assert re.sub(r"[\d. ]+", "", path) == "MML"
    assert len(places(svg)) == 3
    on_log = drawn(Series.of("k1", [(0.0, 1.0), (1.0, 0.0), (2.0, 3.0)], "points"), log="xy")
    assert len(places(on_log)) == 1


def test_what_goes_to_infinity_stays_within_its_bounds() -> None:
    svg = drawn(Series.of("k3", [(0, 1), (1, 1e300), (2, float("inf"))], "points"), top=10.0, bottom=0.0)
    assert max(float(text) for text in ticks(svg, "end")) <= 10
    assert 'clip-path="url(#0-clip)"' in svg


def test_panels_share_a_legend_and_a_label_its_colour() -> None:
    one, two = Series.of("k1", [(0, 1)], "points"), Series.of("k3", [(0, 1)], "points")
    svg = curves.svg(Chart("t", "", (Panel("a", "x", "y", (one, two)), Panel("b", "x", "y", (two,)))), "b7-")
    assert svg.count("</span>") == 2
    second = svg.split('id="b7-1-title"')[1].split('<p class="legend">')[0]
    assert re.findall(r"<(?:circle|polygon) class=\"(c\d)\"", second) == ["c1"]


@pytest.mark.parametrize(
    ("value", "said"), [(0.00018, "0.00018"), (1e-7, "1e−7"), (0.0, "0"), (-2.5, "−2.5"), (100000.0, "100000")]
)
def test_a_tick_has_all_its_digits(value: float, said: str) -> None:
    assert curves._number(value) == said


def test_a_picture_of_nothing_is_a_picture() -> None:
    assert "<svg" in drawn()
    assert "<svg" in drawn(Series.of("k1", [(1.0, 1.0)]))


def test_names_stand_where_numbers_would() -> None:
    series = Series.of("value", [(1.0, 0.0), (2.0, -1.0)], "points")
    svg = drawn(series, names=("k1", "a name that is far too long for its room"))
    at = {name: float(y) - 4 for y, name in re.findall(r'y="([\d.]+)" text-anchor="end"[^>]*>([^<]*)</text>', svg)}
    assert [y for _, y in places(svg)] == pytest.approx(
        [at["k1"], at["a name that is far too long for its room"]], abs=0.2
    )
    assert svg.count("textLength") == 1
