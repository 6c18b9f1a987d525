"""The command line as a user meets it: in processes of its own, or through main()."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kullback import CLAIMS, ESTIMATORS, SURROGATES, cli
from kullback.claims.pages import computed
from kullback.cli import screen
from kullback.documents import text_of
from kullback.jobs.progress import Progress
from kullback.models.shipped import BUILTIN

SMALL = ["--samples", "2", "--max-new-tokens", "8"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of ``kullback …``."""
    sys.argv = ["kullback", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_compare_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "compare", *SMALL, "--both")
    assert (status, err) == (0, "")
    for words in ("KL(policy‖reference)", "KL(reference‖policy)", "rao_blackwell", "n for ±1%", "Tokens where"):
        assert words in out


def test_compare_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    names = [word for name in ("k3:sequence", "k1", "k1:token") for word in ("--estimator", name)]  # k1 twice
    status, out, _ = run(capsys, "compare", *SMALL, "--json", *names)
    record = json.loads(out)
    assert status == 0
    assert [(e["estimator"], e["level"], e["unit"]) for e in record["estimates"]] == [
        ("k3", "sequence", "sequence"),
        ("k3", "sequence", "token"),
        ("k1", "token", "sequence"),
        ("k1", "token", "token"),
    ]
    first = record["estimates"][0]
    assert first["low"] < first["value"] < first["high"]


def test_text_prints_what_quantisers_expect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The dog went to the lake. " * 40)
    status, out, _ = run(capsys, "compare", "--text", str(tmp_path / "t.txt"), "--context-length", "64")
    assert status == 0
    for words in ("99.9% quantile", "same most likely token", "RMS Δp", "perplexity", "clustered by window"):
        assert words in out
    status, out, _ = run(capsys, "compare", "--text", str(tmp_path / "t.txt"), "--json")
    assert {"0.5", "0.999", "1"} <= set(json.loads(out)["quantiles"])


def test_estimators_prints_every_member(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "estimators", "--json")
    record = json.loads(out)
    assert status == 0
    assert {row["estimator"] for row in record["estimators"]} == set(ESTIMATORS.names)
    assert {row["surrogate"] for row in record["surrogates"]} == set(SURROGATES.names)
    status, out, _ = run(capsys, "estimators")
    assert "k3_token_ratio" in out


def test_claims_lists_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "claims", "--json")
    assert status == 0
    assert [claim["id"] for claim in json.loads(out)["claims"]] == list(CLAIMS.names)
    status, out, _ = run(capsys, "claims", "--json", "--source", "003", "--verdict", "fails")
    chosen = json.loads(out)["claims"]
    assert {"002-ratio-flipped", "003-estimator-cost"} <= {claim["id"] for claim in chosen}
    assert {claim["verdict"] for claim in chosen} == {"fails"}
    status, out, _ = run(capsys, "claims", "--source", "004")
    assert status == 0
    assert "004-gradient-of-fS" in out


def test_claims_shows_one_with_its_numbers_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    claim = CLAIMS["004-gradient-of-fS"]
    status, out, _ = run(capsys, "claims", claim.id)
    assert status == 0
    words = " ".join(out.split())
    for text in (claim.id, claim.verdict.value, claim.statement, *claim.code.splitlines()):
        assert " ".join(text.split()) in words
    for piece in claim.evidence():
        assert text_of(computed(piece)) in out
    status, out, _ = run(capsys, "claims", claim.id, "--json", "--seed", "3")
    assert [f["computed"] for f in json.loads(out)["findings"]] == [f.computed for f in claim.evidence(3)]


def test_claims_json_is_valid_for_an_infinite_number(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "claims", "liu-spread-of-k3", "--json")
    record = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert "inf" in {finding["computed"] for finding in record["findings"]}


WRONG_CLAIMS = [
    (["004-gradient-of-f"], "there is no claim '004-gradient-of-f'; the nearest are 004-gradient-of-fS"),
    (["--source", "0004"], "there is no source '0004'; the nearest are 004"),
    (["--verdict", "fail"], "there is no verdict 'fail'; the nearest are fails"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG_CLAIMS, ids=[a[-1] for a, _ in WRONG_CLAIMS])
def test_an_unknown_claim_names_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, out, err = run(capsys, "claims", *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.strip().count("\n") == 0


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kullback", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __import__("kullback").__version__


@pytest.mark.parametrize("command", ["", "compare"])
def test_help_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = run(capsys, *command.split(), "--help")
    assert status == 0
    assert "kullback compare" in out


BAD_INPUT = [
    (["--prompts", "{tmp}/empty.txt"], "holds no prompt"),
    (["--prompts", "{tmp}/none.txt"], "cannot be read"),
    (["--prompts", "{tmp}/long.txt"], "shorten the prompt or lower --max-new-tokens"),
    (["--max-new-tokens", "0"], "a number at least 1 and at most 1,000,000 is needed"),
    (["--temperature", "-1"], "it must be positive"),
    (["--estimator", "k9"], "choose one of k1, k2, k3"),
    (["--estimator", "k3:word"], "a level is token or sequence"),
    (["--batch-size", "many"], "'auto' or at least 1"),
    (["{tmp}/weightless", "builtin:base"], "holds no weights in *.safetensors"),
    (["{tmp}/nothing", "builtin:base"], "is no folder"),
    (["--output", "{tmp}/empty.txt"], "choose another --output"),
    (["--text", "{tmp}/empty.txt"], "came with --text, which samples nothing"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT, ids=[" ".join(a) for a, _ in BAD_INPUT])
def test_bad_input_is_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "long.txt").write_text("dog " * 400)
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text((BUILTIN / "base" / "config.json").read_text())
    status, out, err = run(capsys, "compare", *SMALL, *(a.format(tmp=tmp_path) for a in arguments))
    assert status == 2
    assert words in err
    assert err.startswith("kullback: ")
    assert err.strip().count("\n") == 0
    assert "Traceback" not in out + err


def test_a_terminal_shows_progress_with_speed_and_time_left() -> None:
    leader, follower = pty.openpty()
    job = subprocess.Popen(
        [sys.executable, "-m", "kullback", "compare", "--samples", "5", "--batch-size", "16"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 1 << 16)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        shown += piece
    out, _ = job.communicate(timeout=60)
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert job.returncode == 0, text
    assert "loading models" in text
    assert re.search(r"comparing .* \d+/100 sequences [\d,]+ tokens/s \d:\d\d:\d\d", text), text[-2000:]
    assert "rao_blackwell" in out.decode()


def test_ctrl_c_keeps_the_finished_batches(tmp_path: Path) -> None:
    options = ["--samples", "4000", "--max-new-tokens", "16", "--batch-size", "16", "--json"]
    command = [sys.executable, "-m", "kullback", "compare", *options]
    job = subprocess.Popen(
        [*command, "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell that runs the tests in the background has its children ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    part = tmp_path / "rollouts.parquet.part"
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size > 10_000) and time.monotonic() < deadline:
        time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    try:
        out, err = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 2, err
    assert "kullback: stopped after" in err
    assert "Traceback" not in err
    record = json.loads(out)
    assert 0 < record["sequences"] < 80_000
    from kullback import read_rollouts

    assert len(read_rollouts(tmp_path / "rollouts.parquet")) == record["sequences"]
    assert json.loads((tmp_path / "estimate.json").read_text()) == record


def test_a_pipe_is_told_the_pace_of_the_work_and_not_of_loading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 100.0, 110.0, 120.0])  # a hundred seconds of loading, then ten a batch
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(screen, "QUIET_SECONDS", 15.0)
    with screen.shown(False, "windows") as (on_progress, _):
        for batch in (1, 2, 3):
            on_progress(Progress(batch, 4, 50 * batch))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "kullback: comparing, 1/4 windows"
    assert second == "kullback: comparing, 3/4 windows, 5 tokens/s, about 10 s left"


@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_compare_writes_a_report(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"report.{kind}"
    status, out, err = run(capsys, "compare", *SMALL, "--max-kl", "9", "--report", str(path))
    assert (status, err) == (0, "")
    text = path.read_text()
    if kind == "json":
        record = json.loads(text)
        assert (record["sequences"], record["gate"]["verdict"]) == (40, "below")
        return
    assert "rao_blackwell" in out
    assert "rao_blackwell" in text
    assert "src=" not in text
    assert ("<!DOCTYPE html>" in text) == (kind == "html")


@pytest.mark.parametrize(
    ("name", "words"), [("r.pdf", "has to end in .md, .html, .json"), ("none/r.html", "there is no folder")]
)
def test_a_report_that_cannot_be_written_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, words: str
) -> None:
    status, out, err = run(capsys, "compare", "no/such-model", "no/other", "--report", str(tmp_path / name))
    assert (status, out) == (2, "")
    assert words in err
