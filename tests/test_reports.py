"""--report: a page, its numbers and a card; and verify, which computes the numbers again and finds what was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import kullback as kb
from kullback.cli.app import app
from kullback.jobs.reports import read_report

COMPARE = ("compare", "--samples", "2", "--max-new-tokens", "8")
LOSSES = """\
def k1(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask).sum(1).mean()
"""


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    error = "" if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)
    return done.exit_code, done.stdout, done.stderr + error


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report of every command."""
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    rows = [
        kb.Rollout(
            logprobs=-rng.exponential(size=6), ref_logprobs=-rng.exponential(size=6), step=row % 3, prompt_id=row % 5
        )
        for row in range(30)
    ]
    kb.write_rollouts(folder / "dump.parquet", rows)
    (folder / "losses.py").write_text(LOSSES)
    for words in (
        (*COMPARE, "--report", folder / "compare.html"),
        ("estimate", folder / "dump.parquet", "--by", "position", "--report", folder / "estimate.html"),
        ("lab", "lambda", "-n", "2", "--report", folder / "lab.html"),
        ("audit", f"{folder}/losses.py:k1", "--placement", "metric", "--report", folder / "audit.html"),
    ):
        status, _, said = run(*words)
        assert (status, said) == (0, ""), words
    return folder


KINDS = ("compare", "estimate", "lab", "audit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_a_page_with_its_numbers_and_a_card(reports: Path, kind: str) -> None:
    page, card = ((reports / f"{kind}.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    record = read_report(reports / f"{kind}.json")
    command = record["report"]["command"]
    assert command.split()[:2] == ["kullback", kind]
    assert "--report" not in command
    assert command.replace("'", "&#x27;") in page
    assert command in card
    assert f"kullback verify {kind}.json" in page
    assert len(card) < 6_000
    assert set(record["report"]["beside"]) == {f"{kind}.html", f"{kind}.md"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_claimed_comes_out_again(reports: Path, kind: str) -> None:
    words = ("--run-code",) if kind == "audit" else ()
    status, out, said = run("verify", reports / f"{kind}.json", "--json", *words)
    assert (status, said) == (0, "")
    checks = json.loads(out)["checks"]
    [numbers] = [check for check in checks if check["what"] == "numbers"]
    assert int(numbers["said"].split(" agree")[0].replace(",", "")) > 20
    assert {check["standing"] for check in checks} <= {"verified", "not verified"}


def test_an_audits_code_is_run_only_where_that_is_asked_for(reports: Path) -> None:
    status, out, _ = run("verify", reports / "audit.json")
    assert status == 2
    assert "--run-code" in out


def test_what_the_models_did_is_said_to_be_not_verified(reports: Path) -> None:
    checks = json.loads(run("verify", reports / "compare.json", "--json")[1])["checks"]
    [models] = [check for check in checks if check["what"].startswith("whether these models drew")]
    assert models["standing"] == "not verified"


def changed(reports: Path, tmp_path: Path, kind: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a report with its files, of which something was changed."""
    for path in filter(Path.is_file, reports.iterdir()):  # not what Python keeps of losses.py
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads((tmp_path / f"{kind}.json").read_text())
    change(record)
    (tmp_path / f"{kind}.json").write_text(json.dumps(record))
    return tmp_path / f"{kind}.json"


def set_value(record: dict[str, Any]) -> None:
    record["estimates"][0]["value"] *= 1.001


def drop_estimate(record: dict[str, Any]) -> None:
    record["estimates"] = record["estimates"][:-1]


def set_sequences(record: dict[str, Any]) -> None:
    record["sequences"] += 1


def set_group(record: dict[str, Any]) -> None:
    record["groups"][0]["groups"][0]["high"] *= 0.99


@pytest.mark.parametrize(
    ("kind", "change", "place"),
    [
        ("compare", set_value, "estimates[reverse k1 token sequence].value"),
        ("compare", set_sequences, "sequences"),
        ("estimate", set_value, "value"),
        ("estimate", drop_estimate, "estimates: how many"),
        ("estimate", set_group, "high"),
    ],
)
def test_a_number_that_was_changed_is_named(
    reports: Path, tmp_path: Path, kind: str, change: Callable[[dict[str, Any]], None], place: str
) -> None:
    status, out, _ = run("verify", changed(reports, tmp_path, kind, change), "--json")
    assert status == 1
    assert any(check["standing"] == "differs" and place in check["what"] for check in json.loads(out)["checks"])


def test_a_rounding_of_the_last_digits_is_no_difference(reports: Path, tmp_path: Path) -> None:
    def nudge(record: dict[str, Any]) -> None:
        record["estimates"][0]["value"] *= 1 + 1e-6

    assert run("verify", changed(reports, tmp_path, "compare", nudge))[0] == 0


def test_another_file_or_page_than_it_was_is_named(reports: Path, tmp_path: Path) -> None:
    path = changed(reports, tmp_path, "estimate", lambda _: None)
    (tmp_path / "estimate.html").write_text("another")
    status, out, _ = run("verify", path, "--json")
    found = {check["what"]: check["standing"] for check in json.loads(out)["checks"]}
    assert (status, found["file estimate.html"], found["numbers"]) == (1, "differs", "verified")
    kb.write_rollouts(tmp_path / "dump.parquet", [kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0])])
    found = {check["what"]: check["standing"] for check in json.loads(run("verify", path, "--json")[1])["checks"]}
    assert (found["file dump.parquet"], found["numbers"]) == ("differs", "not verified")
    (tmp_path / "dump.parquet").unlink()
    (tmp_path / "estimate.html").unlink()
    assert run("verify", path)[0] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "does not say how it was made"),
        ('{"report": {"kind": "compare", "schema": 99}}', "this kullback knows version 1"),
        ('{"report": {"kind": "lab lambda", "schema": 1, "asked": {}}}', "is not what kullback writes"),
        ('{"report": {"kind": "estimate", "schema": 1, "asked": {"paths": ["a"], "colour": 1}}}', "not what kullback"),
        ('{"report": {"kind": "compare", "schema": 1, "rests_on": 3}}', "is not what kullback writes"),
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    status, out, said = run("verify", path)
    assert (status == 0, out) == (False, "")
    assert words in said
    assert "\n" not in said.strip()


def test_an_experiment_of_a_hostile_report_writes_nothing(reports: Path, tmp_path: Path) -> None:
    def elsewhere(record: dict[str, Any]) -> None:
        record["report"]["asked"]["words"] += ["--output", str(tmp_path / "written"), "--report", f"{tmp_path}/r.html"]

    assert run("verify", changed(reports, tmp_path, "lab", elsewhere))[0] == 0
    assert not (tmp_path / "written").exists()
    assert not (tmp_path / "r.html").exists()


def test_a_plan_from_models_is_not_run_again(reports: Path, tmp_path: Path) -> None:
    def plan(record: dict[str, Any]) -> None:
        record["report"] |= {"kind": "lab plan", "asked": {"words": ["nobody/policy", "nobody/reference"]}}

    status, out, _ = run("verify", changed(reports, tmp_path, "lab", plan))
    assert status == 2
    assert "models" in out


def test_nothing_of_anothers_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("mine")
    status, _, said = run("lab", "lambda", "-n", "2", "--report", tmp_path / "readme.html")
    assert status == 2
    assert "readme.md too" in said
    assert (tmp_path / "readme.md").read_text() == "mine"
    assert not (tmp_path / "readme.html").exists()
    assert run("lab", "lambda", "-n", "2", "--report", tmp_path / "other.html")[0] == 0
    assert run("lab", "lambda", "-n", "2", "--report", tmp_path / "other.html")[0] == 0  # its own it may


def test_an_estimates_file_may_have_its_reports_name_and_a_comparisons_may_not(reports: Path, tmp_path: Path) -> None:
    (tmp_path / "run.parquet").write_bytes((reports / "dump.parquet").read_bytes())
    status, _, said = run(*COMPARE, "--report", tmp_path / "run.html")
    assert status == 2
    assert "run.parquet too" in said
    assert run("estimate", tmp_path / "run.parquet", "--report", tmp_path / "run.html")[0] == 0
    assert run(*COMPARE, "--report", tmp_path / "run.html")[0] == 2  # the report there is of an estimate
    assert (tmp_path / "run.parquet").read_bytes() == (reports / "dump.parquet").read_bytes()
    for _ in range(2):  # its own a comparison may replace
        assert run(*COMPARE, "--report", tmp_path / "own.html")[0] == 0


def test_texts_of_data_are_not_obeyed_in_a_card(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.parquet"
    kb.write_rollouts(tmp_path / name, [kb.Rollout(logprobs=[-1.0], ref_logprobs=[-2.0])] * 3)
    assert run("estimate", tmp_path / name, "--report", tmp_path / "r.html")[0] == 0
    for end in ("html", "md"):
        text = (tmp_path / f"r.{end}").read_text()
        assert "<img" not in text.replace("```sh\n", "").split("kullback estimate")[0]
