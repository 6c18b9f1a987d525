"""``kullback score`` as a user meets it: odd lines, each one sentence; what is printed, as JSON too."""

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
from kullback.jobs.rescoring.agreement import Agreement
from kullback.jobs.rescoring.outcome import Rescored
from kullback.report import terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    row = {"behavior_logprobs": [-0.5, -0.7], "tokens": [30, 40]}
    kb.write_rollouts(folder / "a.parquet", [kb.Rollout(**row, prompt_tokens=[10, 20], prompt_id=0, text="\x1b[2J")])  # type: ignore[arg-type]
    kb.write_rollouts(folder / "bare.parquet", [kb.Rollout(**row)])  # type: ignore[arg-type]
    two = [kb.Rollout(logprobs=[-0.5, -9.0], ref_logprobs=[-0.6, -0.7], tokens=[30, 40], prompt_tokens=[10])]
    kb.write_rollouts(folder / "two.parquet", two)
    (folder / "texts.jsonl").write_text('{"prompt": "One day", "completion": " a dog ran."}\n' * 2)
    (folder / "chat.jsonl").write_text('{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}\n')
    (folder / "empty.jsonl").write_text("")
    (folder / "other.jsonl").write_text('{"hello": 1}\n')
    (folder / "dump").mkdir()
    (folder / "dump" / "texts.jsonl").write_text((folder / "texts.jsonl").read_text())
    (folder / "killed.parquet.part").write_bytes(b"")
    (folder / "there.parquet").write_bytes(b"")
    return folder


BOTH = "--policy builtin:tuned --reference builtin:base"

LINES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("{f}/a.parquet", 2, ("no model came to score with", "--policy MODEL --reference MODEL")),
    ("", 2, ()),
    (
        f"{{f}}/a.parquet {BOTH}",
        0,
        ("logprobs, ref_logprobs, token_kl, ref_mass added", "kullback estimate a.scored.parquet"),
    ),
    ("{f}/a.parquet --policy builtin:tuned --overwrite", 0, ("logprobs added", "behavior_logprobs")),
    (f"{{f}}/texts.jsonl {BOTH} --temperature 0.7", 0, ("2 of 2 texts do not end", "temperature 0.7", "chat template")),
    (f"{{f}}/dump {BOTH}", 0, ("kullback estimate dump.scored.parquet",)),
    ("{f}/texts.jsonl --policy builtin:tuned", 2, ("holds texts without log-probs", "name the reference too")),
    ("{f}/texts.jsonl --reference builtin:base", 2, ("name the policy too",)),
    (f"{{f}}/chat.jsonl {BOTH} --output {{t}}/c.parquet", 2, ("line 1: prompt is a list of messages",)),
    (f"{{f}}/bare.parquet {BOTH}", 2, ("bare.parquet, row 0: it has no prompt_tokens", "--skip-bad")),
    (f"{{f}}/bare.parquet {BOTH} --skip-bad", 2, ("holds no row that can be scored", "row 0: it has no prompt_tokens")),
    (
        "{f}/two.parquet --policy builtin:tuned",
        0,
        ("Nothing was added", "logprobs stayed", "nats a token from those of"),
    ),
    ("{f}/two.parquet --policy builtin:tuned --overwrite-columns --overwrite", 0, ("are kept as behavior_logprobs",)),
    (f"{{f}}/missing.jsonl {BOTH}", 2, ("missing.jsonl",)),
    (f"{{f}}/empty.jsonl {BOTH}", 2, ("it is empty",)),
    (f"{{f}}/other.jsonl {BOTH}", 2, ("in no format that is known",)),
    (f"{{f}}/other.jsonl {BOTH} --map completion=hello", 2, ("the record has no prompt",)),
    (f"{{f}}/other.jsonl {BOTH} --map prompt=hello --map completion=x", 2, ("there is no 'x'",)),
    (f"{{f}}/texts.jsonl {BOTH} --map completion", 2, ("OURS=THEIRS",)),
    (f"{{f}}/texts.jsonl {BOTH} --map nothing=prompt --output {{t}}/n.parquet", 2, ("map names 'nothing'",)),
    (f"{{f}}/texts.jsonl {BOTH} --format nonsense --output {{t}}/n.parquet", 2, ("format='nonsense' came",)),
    (f"{{f}}/texts.jsonl {BOTH} --format text --output {{t}}/n.parquet", 0, ("logprobs",)),
    (f"{{f}}/a.parquet {BOTH} --output {{f}}/a.parquet --overwrite", 2, ("is the file that is read",)),
    (f"{{f}}/dump {BOTH} --output {{f}}/dump/o.parquet", 2, ("lies in the folder that is read",)),
    (f"{{f}}/a.parquet {BOTH} --output {{t}}/o.jsonl", 2, ("name a file that ends in .parquet",)),
    (f"{{f}}/a.parquet {BOTH} --output {{f}}/there.parquet", 2, ("is there already",)),
    (f"{{f}}/a.parquet {BOTH} --output {{f}}/killed.parquet", 2, ("killed.parquet.part is there", "read_rollouts")),
    (f"{{f}}/a.parquet {BOTH} --output {{f}}/there.parquet/o.parquet", 2, ("cannot be written",)),
    (f"{{f}}/a.parquet {BOTH} --output {{t}}/o.parquet --batch-size 0", 2, ("--batch-size 0 came",)),
    (f"{{f}}/a.parquet {BOTH} --output {{t}}/o.parquet --batch-size many", 2, ("--batch-size many came",)),
    (f"{{f}}/a.parquet {BOTH} --output {{t}}/o.parquet --temperature 0", 2, ("temperature=0 came",)),
    (f"{{f}}/a.parquet {BOTH} --output {{t}}/o.parquet --temperature nan", 2, ("temperature=nan came",)),
    (f"{{f}}/a.parquet {BOTH} --output {{t}}/o.parquet --dtype int4", 2, ("dtype='int4' came",)),
    ("{f}/a.parquet --policy ./nowhere --output {t}/o.parquet", 2, ("./nowhere is no folder",)),
    ("{f}/a.parquet --policy builtin:huge --output {t}/o.parquet", 2, ("builtin:base and builtin:tuned",)),
    (
        "{f}/a.parquet --policy http://localhost:1/v1 --output {t}/o.parquet",
        2,
        ("http://localhost:1/v1 cannot be reached",),
    ),
    ("{f}/a.parquet --policy '' --output {t}/o.parquet", 2, ("a blank word came after --policy",)),
)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["kullback", "score", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(("line", "status", "words"), LINES, ids=[line.replace("{f}/", "") for line, _, _ in LINES])
def test_a_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tmp_path: Path,
    line: str,
    status: int,
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    came, out, err = run(capsys, monkeypatch, *shlex.split(line.format(f=folder, t=tmp_path)))
    said = " ".join((out + err).replace("│", " ").split())
    assert came == status, said
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said
    assert "nobody foresaw" not in said
    if status == 2 and err.startswith("kullback: "):
        assert err.count("\n") == 1
        assert not out


def test_json_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    target = f"{tmp_path}/o.parquet"
    status, out, err = run(capsys, monkeypatch, f"{folder}/two.parquet", *BOTH.split(), "--output", target, "--json")
    record = json.loads(out)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert (record["schema"], record["rows"], record["tokens"], record["complete"]) == (1, 1, 2, True)
    assert record["models"] == {"logprobs": "builtin:tuned", "ref_logprobs": "builtin:base"}
    assert (record["written"], record["kept"]) == ([], ["logprobs", "ref_logprobs"])
    assert record["agreements"][0]["mean_absolute_difference"] > 1
    assert record["next"] == f"kullback estimate {target}"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_screen(width: int) -> None:
    found = Rescored(
        source="rollouts.jsonl",
        format="verl-text",
        output="scored.parquet",
        models={"logprobs": "./checkpoint-200", "ref_logprobs": "Qwen/Qwen3-0.6B"},
        written=("ref_logprobs",),
        kept=("logprobs",),
        agreements=(Agreement("logprobs", "./checkpoint-200", 4, 0.5, -0.1, 0.3),),
        rows=2,
        tokens=4,
        temperature=1.0,
        seconds=0.1,
        complete=True,
        notes=("a note that is long enough to be wrapped on a narrow screen, as notes of this command are",),
    )
    screen = Console(width=width, file=io.StringIO())
    terminal.show(found.document(), screen)
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(cell_len, lines)) <= width
    assert any("0.125" in line for line in lines)
