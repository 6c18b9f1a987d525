"""``kullback estimate`` as a user meets it: odd lines, exit statuses, screens of three widths, reports."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import kullback as kb
from kullback import cli
from kullback.report import terminal

Q = [[-0.5, -1.0], [-0.7, -0.2, -0.4], [-0.1, -2.0], [-0.3], [-0.9, -0.6], [-0.2, -0.8, -1.1]]
P = [[-0.7, -1.5], [-0.6, -0.9, -0.4], [-0.3, -1.6], [-0.4], [-0.5, -0.7], [-0.2, -1.0, -0.9]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    rows = [
        kb.Rollout(
            logprobs=q, ref_logprobs=p, prompt_id=i // 2, step=1 + i // 3, reward=i % 2, text=f"\x1b[2J answer {i}"
        )
        for i, (q, p) in enumerate(zip(Q, P, strict=True))
    ]
    kb.write_rollouts(folder / "a.parquet", rows)
    kb.write_rollouts(folder / "b.parquet", rows[:4])
    kb.write_rollouts(folder / "c.parquet", rows[2:])
    kb.write_rollouts(folder / "sampler.parquet", [kb.Rollout(behavior_logprobs=q, tokens=[5] * len(q)) for q in Q])
    kb.write_rollouts(folder / "other.parquet", [kb.Rollout(behavior_logprobs=q, tokens=[6] * len(q)) for q in Q])
    kb.write_rollouts(folder / "scored.parquet", [kb.Rollout(behavior_logprobs=p, tokens=[5] * len(p)) for p in P])
    kb.write_rollouts(folder / "bad.parquet", [*rows, kb.Rollout(logprobs=[-0.1, 2.0], ref_logprobs=[-0.1, -0.2])])
    (folder / "empty.jsonl").write_text("")
    (folder / "text.jsonl").write_text('{"hello": 1}\n')
    (folder / "dump").mkdir()
    for name in ("a", "b"):
        (folder / "dump" / f"{name}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
    return folder


LINES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("{f}/a.parquet", 0, ("KL(policy‖reference) is", "6 sequences of 3 prompts", "by step")),
    ("{f}/dump", 0, ("10 sequences of 3 prompts", "2 files")),
    ("{f}/a.parquet --by reward --by position", 0, ("by reward", "by position")),
    ("{f}/a.parquet --by finish", 2, ("--by finish came", "no single number or text by that name", "step")),
    ("{f}/a.parquet --by rewrad", 2, ("did you mean reward?",)),
    ("{f}/a.parquet --where 'stp > 1'", 2, ("--where stp came", "did you mean step?")),
    ("{f}/a.parquet --where 'step > 1'", 0, ("--where left out 3 rows", "step > 1")),
    ("{f}/a.parquet --where 'step > 9'", 2, ("leaves none of the 6 rows", "loosen it")),
    ("{f}/a.parquet --where 'step >'", 2, ("its end where a column, a number or a text is expected",)),
    ("{f}/a.parquet --where 'step'", 2, ("where a comparison",)),
    ("{f}/a.parquet --where ''", 2, ("a blank word came after --where",)),
    ("{f}/a.parquet --where 'step > abc'", 2, ("compares step with 'abc'", "numbers with numbers")),
    ("{f}/a.parquet --where 'import os'", 2, ("--where 'import os'",)),
    ("{f}/a.parquet --where 'position > 3'", 2, ("use --by position",)),
    ("{f}/a.parquet --unit nats", 2, ("unit='nats' came",)),
    ("{f}/a.parquet --unit token", 0, ("nats/token",)),
    ("{f}/a.parquet --estimator k9", 2, ("k9",)),
    ("{f}/a.parquet --estimator k1 --estimator control_variate", 0, ("by k1", "by control_variate")),
    ("{f}/a.parquet --estimator rao_blackwell", 2, ("no exact token KLs", "ask for k3")),
    ("{f}/a.parquet --estimator renyi_2 --unit token", 2, ("function of a mean", "unit='sequence'")),
    ("{f}/a.parquet --estimator renyi_2", 0, ("nats/sequence",)),
    ("{f}/a.parquet --format nonsense", 2, ("nonsense",)),
    ("{f}/a.parquet --map logprobs", 2, ("--map logprobs came", "OURS=THEIRS")),
    ("{f}/a.parquet --map nothing=x", 2, ("map names 'nothing'",)),
    ("{f}/a.parquet --pool", 2, ("--pool came without two paths",)),
    (
        "{f}/a.parquet {f}/b.parquet",
        0,
        ("a.parquet beside b.parquet", "Paired by prompt: the difference is over the 2"),
    ),
    ("{f}/a.parquet {f}/b.parquet --pool", 0, ("10 sequences",)),
    ("{f}/a.parquet {f}/b.parquet {f}/c.parquet", 0, ("14 sequences", "and 2 more")),
    ("{f}/a.parquet {f}/b.parquet --max-kl 1", 2, ("--max-kl came with two dumps",)),
    ("{f}/a.parquet --max-kl 10", 0, ("below: KL(policy‖reference)",)),
    ("{f}/a.parquet --max-kl 10/token", 0, ("below",)),
    ("{f}/a.parquet --max-kl 0.1", 0, ("undecided",)),
    ("{f}/a.parquet --max-kl 0.1 --undecided fail", 1, ("undecided",)),
    ("{f}/a.parquet --max-kl 0.1/token --unit sequence", 2, ("leave one of them out",)),
    ("{f}/a.parquet --max-kl nan", 2, ("--max-kl nan came",)),
    ("{f}/a.parquet --undecided fail", 2, ("--undecided came without --max-kl",)),
    ("{f}/sampler.parquet", 2, ("what drew the tokens alone", "kullback score", "OTHER_FILE")),
    ("{f}/sampler.parquet {f}/scored.parquet", 0, ("Joined row by row", "KL(sampler‖policy)")),
    ("{f}/sampler.parquet {f}/other.parquet", 2, ("cannot be joined", "row 0")),
    ("{f}/bad.parquet", 2, ("row 6: logprobs[1] is 2", "--skip-bad")),
    ("{f}/bad.parquet --skip-bad", 0, ("--skip-bad left out 1 rows", "row 6")),
    ("{f}/missing.jsonl", 2, ("missing.jsonl",)),
    ("{f}/empty.jsonl", 2, ("empty",)),
    ("{f}/text.jsonl", 2, ("text.jsonl",)),
    ("", 2, ()),
    ("{f}/a.parquet --output {f}/report.txt", 2, (".md, .html, .json",)),
    ("{f}/a.parquet --output {f}/nowhere/report.md", 2, ("cannot be written",)),
    ("{f}/a.parquet --output {f}/report.md", 0, ()),
)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["kullback", "estimate", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(("line", "status", "words"), LINES, ids=[line.replace("{f}/", "") for line, _, _ in LINES])
def test_a_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    line: str,
    status: int,
    words: tuple[str, ...],
) -> None:
    came, out, err = run(capsys, monkeypatch, *shlex.split(line.format(f=folder)))
    said = " ".join((out + err).replace("│", " ").split())
    assert came == status, said
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said
    assert "nobody foresaw" not in said
    assert "\x1b" not in said
    if status == 2 and err.startswith("kullback: "):
        assert err.count("\n") == 1
        assert not out


def test_json_is_one_line_with_the_schema(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    status, out, err = run(capsys, monkeypatch, f"{folder}/a.parquet", "--json", "--max-kl", "10")
    record = json.loads(out)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert record["schema"] == 1
    assert record["gate"]["verdict"] == "below"
    assert {"estimator", "level", "unit", "value", "low", "high", "n", "kl"} <= set(record["estimates"][0])
    by_step = next(table for table in record["groups"] if table["by"] == "step")
    assert [group["group"] for group in by_step["groups"]] == [1, 2]
    assert record["influential"][0]["text"] == "\x1b[2J answer 5"


def test_reports_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    for ending in ("md", "html", "json"):
        assert run(capsys, monkeypatch, f"{folder}/a.parquet", "--output", f"{tmp_path}/report.{ending}")[0] == 0
    assert "KL(policy‖reference)" in (tmp_path / "report.md").read_text()
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["sequences"] == 6


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_screen(folder: Path, width: int) -> None:
    for paths in (f"{folder}/a.parquet", [f"{folder}/a.parquet", f"{folder}/b.parquet"]):
        screen = Console(width=width, file=io.StringIO())
        terminal.show(kb.estimate_files(paths, by="position").document(), screen)
        lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(cell_len, lines)) <= width
        assert any("KL(policy‖reference)" in line for line in lines)
