"""The laboratory's outcomes: tables, pictures and JSON, in the library and on the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from math import inf, nan
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_cli import run
from test_lab_plan import DISTANCES, pilot_of

import kullback as kb
from kullback import lab
from kullback.documents import MISSING, Cell, Chart, Panel, Series, text_of
from kullback.lab.cells import Fixed, Relative, Span, Unbounded, settled
from kullback.report.pictures import draw


def test_a_picture_is_the_same_file_twice_and_names_its_numbers(tmp_path: Path) -> None:
    x = np.array([1.0, 2.0])
    chart = Chart("c", "words", (Panel("t", "x, nats", "y", (Series("k1", x, x), Series("k2", x, x * np.inf)), "xy"),))
    draw(chart, [tmp_path / "a.svg", tmp_path / "a.png"])
    draw(chart, [tmp_path / "b.svg", tmp_path / "b.png"])
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert chart.digest() in (tmp_path / "a.svg").read_text()
    other = Chart("c", "words", (Panel("t", "x, nats", "y", (Series("k1", x, x + 0.1),), "xy"),))
    assert other.digest() != chart.digest()


def test_ten_long_names_fit_below_a_picture_and_no_two_lines_look_alike(tmp_path: Path) -> None:
    x = np.array([1.0, 2.0])
    names = [f"the estimator of the place {place}" for place in range(10)]
    panels = tuple(Panel(t, "x", "y", tuple(Series(name, x, x + len(t)) for name in names)) for t in ("a", "b"))
    draw(Chart("c", "words", panels), [tmp_path / "a.svg"])
    page = ElementTree.parse(tmp_path / "a.svg").getroot()
    width, height = (float(number) for number in page.attrib["viewBox"].split()[2:])
    words = {text.text: text.attrib for text in page.iter("{http://www.w3.org/2000/svg}text") if text.text in names}
    assert set(words) == set(names)
    for name, where in words.items():
        assert 0 < float(where["x"]) < width - 8 * len(name), name
        assert 0 < float(where["y"]) < height, name
    drawn = re.findall(r"stroke: (#\w{6}); stroke-width: 2.4", (tmp_path / "a.svg").read_text())
    assert len(set(drawn)) == len(names)


def test_a_picture_is_as_fresh_on_another_processor() -> None:
    def digest(bias: float) -> str:
        series = Series("k1", np.array([1.0, 2.0, 3.0]), np.array([3.0, bias, np.nan]))
        return Chart("c", "words", (Panel("t", "x, nats", "y", (series,), "xy"),)).digest()

    assert digest(4.4e-16) == digest(-2.2e-16) == digest(0.0) != digest(3e-3)


EXPERIMENTS = {
    "gaussian": lambda: lab.gaussian(samples=100),
    "categorical": lambda: lab.categorical([0.1, 1.0], [4], worlds=1),
    "language": lambda: lab.language([0.1], [4], [4, 512], worlds=1),
    "lambda": lambda: lab.coefficients(sizes=[2, 3]),
    "training": lambda: lab.training([1.0], steps=80, seeds=1),
    "variance": lambda: lab.variance([0.5], vocab=3, horizon=3, worlds=2),
    "gradients": lambda: lab.gradients([0.5], surrogates=["k1_loss", "k3_loss"]),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_are_tables_charts_and_json(name: str, tmp_path: Path) -> None:
    found = EXPERIMENTS[name]()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))
    for table in found.tables():
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert len(set(table.columns)) == len(table.columns)
    chart = found.chart()
    assert chart.name == name
    for panel in chart.panels:
        assert panel.x
        assert panel.y
        assert any(np.isfinite(series.y).any() for series in panel.series)
    draw(chart, [tmp_path / "p.png", tmp_path / "p.svg"])
    assert (tmp_path / "p.svg").stat().st_size < 200_000


OUTCOMES = {**EXPERIMENTS, "plan": lambda: lab.plan(pilot_of(np.array(DISTANCES), 3, 0), relative=0.2)}


@pytest.mark.parametrize("name", OUTCOMES)
def test_documents_hold_numbers_where_tables_have_columns_of_numbers(name: str) -> None:
    found = OUTCOMES[name]()
    document = found.document()
    assert document.title
    assert (document.tables, document.charts) == (found.tables(), (document.charts[0],))
    assert document.charts[0].digest() == found.chart().digest()
    words = {"", MISSING}
    for table in document.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row, strict=True):
                assert isinstance(cell, str) != (column in table.right) or cell in words, (column, cell)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Unbounded(0.5, ".4f"), "0.5000"),
        (Unbounded(inf, ".4f"), "∞"),
        (Unbounded(nan, ".4f"), MISSING),
        (Relative(0.01234, ".3g"), "0.0123"),
        (Relative(999.0, ".3g"), "999"),
        (Relative(1234.0, ".3g"), "1.2e3"),
        (Relative(-1.25e7, ".3g"), "-1.2e7"),
        (Relative(1e12, ".3g"), "1.0e+12"),
        (Relative(inf, ".3g"), "∞"),
        (Fixed(2.8149, 0.2), "2.815 ± 0.200"),
        (Fixed(-0.00004, 0.00123, ".4f"), "-0.0000 ± 0.0012"),
        (Fixed(1.0, nan), "1.000"),
        (Span(1200.0, 3400.0), "1,200 to 3,400"),
        (Span(90.0, inf), "90 to ∞"),
    ],
    ids=str,
)
def test_cells_are_shown_to_the_digits_of_their_form(cell: Cell, text: str) -> None:
    assert text_of(cell) == text


def test_rounding_is_no_bias() -> None:
    assert (settled(-1e-12, 1e-9), settled(1e-3, 1e-9)) == (0.0, 1e-3)
    assert np.isnan(settled(nan, 1e-9))


LAB = {
    "variance": ["--worlds", "1", "--vocab", "3", "--horizon", "3"],
    "gaussian": ["--samples", "100"],
    "categorical": ["--worlds", "1", "--vocab", "8", "--estimator", "k3"],
    "lambda": ["-n", "3"],
    "plan": ["{pilot}", "--relative", "0.2"],
}


@pytest.mark.parametrize("name", LAB)
def test_commands_print_tables_or_json_and_write_files(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb.write_rollouts(tmp_path / "pilot.parquet", pilot_of(np.array(DISTANCES), 3, 0))
    arguments = ["lab", name, *(a.format(pilot=tmp_path / "pilot.parquet") for a in LAB[name])]
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    assert "│" not in out
    status, out, err = run(capsys, *arguments, "--json", "--output", str(tmp_path / "out"))
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.{k}" for k in ("json", "png", "svg")}
    status, out, err = run(capsys, *arguments, "--output", str(tmp_path / "out"))
    assert status == 2
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gaussian", "--scale", "-1"], "--scale -1.0 came, but a number at least 0.001"),
        (["lambda", "--policy", "a,b"], "probabilities with commas"),
        (["plan", "a", "b", "c"], "two models are needed"),
        (["plan", "nothing.parquet"], "cannot be read as rollouts"),
        (["training", "--steps", "1"], "are needed"),
        (["categorical", "--estimator", "k9"], "choose one of"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_options_are_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, out, err = run(capsys, "lab", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("name", ["", "gaussian", "categorical", "language", "gradients", "lambda", "training", "plan"])
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, _ = run(capsys, "lab", *name.split(), "--help")
    assert status == 0
    assert f"kullback lab {name or 'gaussian'}" in out


def test_a_missing_matplotlib_is_named_before_the_work(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "sys.argv = ['kullback', 'lab', 'training', '--output', sys.argv[1]]\n"
        "from kullback.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "matplotlib is needed for this and is not installed: pip install '" in done.stderr
    assert done.stderr.endswith("[report]'\n")
    assert list(tmp_path.iterdir()) == []
