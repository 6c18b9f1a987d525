"""Results in a notebook: they show themselves, become tables, and are drawn; and none of it is loaded before."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kullback as kb
from kullback.displays import Displayed
from kullback.documents import Document, Note
from kullback.errors import InputError, MissingPackageError
from kullback.report import notebooks

RNG = np.random.default_rng(0)
Q = np.log(RNG.uniform(0.2, 0.9, (40, 7)))
P = np.minimum(Q + RNG.normal(0, 0.1, (40, 7)), -1e-3)


def absolute(logprobs: Any, ref_logprobs: Any, mask: Any) -> Any:
    return ((logprobs - ref_logprobs).abs() * mask).sum(-1).mean()


def of_files(folder: Path) -> kb.FilesEstimate:
    rows = [kb.Rollout(logprobs=q, ref_logprobs=p, step=i // 10) for i, (q, p) in enumerate(zip(Q, P, strict=True))]
    kb.write_rollouts(folder / "r.parquet", rows)
    found = kb.estimate_files(folder / "r.parquet", by="step")
    assert isinstance(found, kb.FilesEstimate)
    return found


RESULTS: dict[str, Callable[[Path], Displayed]] = {
    "estimate": lambda _: kb.estimate(Q, P, estimator="k3", groups=np.arange(40) // 5),
    "comparison": lambda _: kb.compare(samples=2, max_new_tokens=4),
    "text": lambda _: kb.compare_text("builtin:tuned", "builtin:base", ["Once there was a cat who went to sea."]),
    "files": of_files,
    "audit": lambda _: kb.audit(absolute, placement="metric"),
    "variance": lambda _: kb.lab.variance((0.3,), worlds=1),
    "gaussian": lambda _: kb.lab.gaussian(samples=100),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Displayed]:
    return {name: made(tmp_path_factory.mktemp(name)) for name, made in RESULTS.items()}


class Wordless(Displayed):
    def document(self) -> Document:
        return Document(title="", blocks=())


class Names(HTMLParser):
    """Tags that are open, and every id."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in ("meta", "br", "path", "use", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


@pytest.mark.parametrize("name", RESULTS)
def test_it_shows_itself_within_anybodys_page(name: str, results: dict[str, Displayed]) -> None:
    shown = results[name]._repr_html_()
    page = Names()
    page.feed(shown)
    assert shown.startswith('<div class="kullback">')
    assert "<script" not in shown
    assert len(page.ids) == len(set(page.ids))
    style = shown[shown.index("<style>") + 7 : shown.index("</style>")]
    rules = [selector.strip() for rule in re.findall(r"([^{}]+)\{", style) for selector in rule.split(",")]
    assert all(selector.startswith(".kullback") for selector in rules)


@pytest.mark.parametrize("name", RESULTS)
def test_its_rows_are_a_frame_with_the_numbers_of_its_records(name: str, results: dict[str, Displayed]) -> None:
    found = results[name]
    frame = found.to_frame()
    assert len(frame) == len(found.records()) > 0
    for record, (_, row) in zip(found.records(), frame.iterrows(), strict=True):
        for column, value in record.items():
            if isinstance(value, int | float | str):
                assert row[column] == value


def test_an_estimates_frame_has_its_value_and_both_errors(results: dict[str, Displayed]) -> None:
    found = results["estimate"]
    assert isinstance(found, kb.Estimate)
    assert found.given_prompts is not None
    row = found.to_frame().iloc[0]
    assert (row["value"], row["stderr"], row["n"]) == (found.value, found.stderr, 40)
    assert row["stderr_given_prompts"] == found.given_prompts.stderr
    assert (row["low"], row["high"]) == found.interval()


def test_what_hostile_text_holds_stays_text() -> None:
    shown = notebooks.fragment(Document(title="<b>", blocks=(Note("</style><script>alert(1)</script>\x1b[2J"),)))
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "files"])
def test_it_is_drawn_with_names_of_its_own(name: str, results: dict[str, Displayed], tmp_path: Path) -> None:
    picture = results[name].plot()
    drawn = picture._repr_svg_()
    assert drawn.startswith("<svg")
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert ids
    assert all(re.match(r"k[0-9a-f]{16}-", one) for one in ids)
    picture.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_estimates_has_each_value_within_its_interval(results: dict[str, Displayed]) -> None:
    found = results["comparison"]
    assert isinstance(found, kb.Comparison)
    panel = found.chart().panels[0]
    values = next(series for series in panel.series if series.label == "value")
    rows = [row for row in found.rows if row.direction == "reverse"]
    assert values.x.tolist() == [row.per_sequence.value for row in rows]
    assert len(panel.names) == len(rows)
    wide = panel.series[0]
    for place, row in enumerate(rows):
        assert (wide.x[3 * place], wide.x[3 * place + 1]) == row.per_sequence.interval()


def test_there_is_no_picture_of_what_has_none(results: dict[str, Displayed]) -> None:
    with pytest.raises(InputError, match="no picture of this result: to_frame"):
        Wordless().plot()
    with pytest.raises(InputError, match="nothing is off by an amount that grows"):
        kb.audit(lambda logprobs, ref_logprobs: logprobs - ref_logprobs, placement="reward").plot()
    infinite = kb.estimate([[-0.5, -1.0]], [[-0.5, -np.inf]], estimator="k1")
    with pytest.raises(InputError, match="not finite"):
        infinite.plot()
    assert "∞" in infinite._repr_html_() or "inf" in infinite._repr_html_()


@pytest.fixture
def no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)


def test_polars_is_taken_where_pandas_is_not(no_pandas: None, monkeypatch: pytest.MonkeyPatch) -> None:
    polars = ModuleType("polars")
    polars.DataFrame = lambda columns, strict: ("polars", columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polars", polars)
    kind, columns = kb.estimate(Q, P, estimator="k1").to_frame()
    assert (kind, columns["estimator"]) == ("polars", ["k1"])


def test_none_of_the_two_is_a_sentence_with_the_line_that_brings_one(
    no_pandas: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    found = kb.estimate(Q, P, estimator="k1")
    with pytest.raises(MissingPackageError, match="pandas or polars is needed for this and is not installed: "):
        found.to_frame()
    with pytest.raises(MissingPackageError, match="polars is needed"):
        found.to_frame("polars")
    with pytest.raises(InputError, match="a frame is of pandas or polars"):
        found.to_frame("arrow")  # type: ignore[arg-type]
