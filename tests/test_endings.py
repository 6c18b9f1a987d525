"""How a job ends: whatever ends it, what was computed is shown, kept and said."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kullback as kb
from kullback import cli
from kullback.errors import FileError, StoppedError
from kullback.jobs import endings
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.outputs import results_in
from kullback.jobs.progress import Progress

SMALL = {"samples": 2, "max_new_tokens": 4, "batch_size": 16}
LINE = ["compare", "--samples", "2", "--max-new-tokens", "4", "--batch-size", "16"]
FINISHED = 16


def run(*arguments: str) -> int:
    sys.argv = ["kullback", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def raising(done: Progress) -> None:
    if done.sequences == FINISHED:
        raise ZeroDivisionError("of the callback")


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """What runs the tests may ignore HUP, as nohup does, and a job then ignores it too, rightly."""
    ignored = [s for s in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(s) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def test_a_callback_that_raises_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="of the callback") as caught:
        kb.compare(output=tmp_path, on_progress=raising, **SMALL)
    result: kb.jobs.comparison.Comparison = caught.value.result  # type: ignore[attr-defined]
    assert len(result.rollouts) == len(kb.read_rollouts(tmp_path / "rollouts.parquet")) == FINISHED
    assert not result.complete
    assert json.loads((tmp_path / "estimate.json").read_text())["sequences"] == FINISHED
    assert "attribute result" in caught.value.__notes__[0]


def test_a_callback_that_raises_on_a_text_loses_nothing(tmp_path: Path) -> None:
    def raising(done: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        kb.compare_text(
            "builtin:tuned", "builtin:base", ["a dog ran"] * 3, batch_size=2, output=tmp_path, on_progress=raising
        )
    assert caught.value.result.windows == 2  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "estimate.json").read_text())["windows"] == 2


def test_a_folder_that_is_removed_under_way_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    found = kb.compare(output=folder, on_progress=lambda done: shutil.rmtree(folder, ignore_errors=True), **SMALL)
    assert len(kb.read_rollouts(folder / "rollouts.parquet")) == len(found.rollouts) == 40
    assert (folder / "estimate.json").is_file()


def test_the_table_is_shown_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise FileError("estimate.json cannot be written (No space left on device)")

    monkeypatch.setattr(endings, "write_json", full)
    assert run(*LINE, "--output", str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert "rao_blackwell" in out
    assert err == "kullback: estimate.json cannot be written (No space left on device)\n"


@pytest.fixture
def small_files() -> Iterator[int]:
    """A limit on the size of files, as of a disk that is full from then on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = 30_000
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_keeps_what_found_room(tmp_path: Path, small_files: int) -> None:
    with pytest.raises(
        FileError, match=r"rollouts.parquet cannot be written \(File too large\).*read_rollouts"
    ) as caught:
        kb.compare(output=tmp_path, **{**SMALL, "samples": 8})
    held = kb.read_rollouts(tmp_path / "rollouts.parquet.part")
    shown = caught.value.result.rollouts
    assert 0 < len(held) < len(shown) < 160
    assert [row.tokens for row in shown[: len(held)]] == [list(row.tokens or ()) for row in held]
    assert not (tmp_path / "rollouts.parquet").exists()


def test_a_folder_is_one_run_s(tmp_path: Path) -> None:
    with results_in(tmp_path, overwrite=False), pytest.raises(FileError, match="another run is writing to"):
        kb.compare(output=tmp_path, **SMALL)
    kb.compare(output=tmp_path, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["estimate.json", "rollouts.parquet"]


def test_old_results_stay_until_the_new_ones_are_whole(tmp_path: Path) -> None:
    kb.compare(output=tmp_path, **SMALL)
    old = (tmp_path / "rollouts.parquet").read_bytes()

    def looking(done: Progress) -> None:
        assert (tmp_path / "rollouts.parquet").read_bytes() == old

    kb.compare(output=tmp_path, overwrite=True, on_progress=looking, **{**SMALL, "seed": 5})
    assert (tmp_path / "rollouts.parquet").read_bytes() != old


# Signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_asks_a_job_to_stop_is_held_until_it_is_safe(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with safe_interrupts() as check:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_signals_that_a_program_handles_itself_stay_its_own() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with safe_interrupts() as check:
            os.kill(os.getpid(), signal.SIGTERM)
            check()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_compares_too() -> None:
    found: list[kb.jobs.comparison.Comparison] = []
    thread = threading.Thread(target=lambda: found.append(kb.compare(**SMALL)))
    thread.start()
    thread.join()
    assert found[0].complete


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_comparison_with_what_is_finished(tmp_path: Path, number: signal.Signals) -> None:
    def ask(done: Progress) -> None:
        if done.sequences == FINISHED:
            os.kill(os.getpid(), number)

    with pytest.raises(StoppedError, match=r"stopped after 16 of 40 sequences, kept in .*rollouts.parquet") as caught:
        kb.compare(output=tmp_path, on_progress=ask, **SMALL)
    assert len(caught.value.result.rollouts) == FINISHED


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)], ids=str)
def test_a_killed_run_leaves_what_can_be_read(tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    command = [sys.executable, "-m", "kullback", "compare", "--samples", "4000", "--batch-size", "16"]
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
    while not (part.exists() and part.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.05)
    if numbers == (signal.SIGKILL,):
        assert len(kb.read_rollouts(part)) >= 16  # also while the run goes on
    for number in numbers:
        job.send_signal(number)
    out, err = job.communicate(timeout=60)
    assert "Traceback" not in err
    if numbers == (signal.SIGKILL,):
        assert len(kb.read_rollouts(part)) >= 16
        assert [path.name for path in tmp_path.iterdir()] == [part.name]
        return
    assert job.returncode == 2
    assert "stopped after" in err
    there = part if part.exists() else tmp_path / "rollouts.parquet"
    assert str(there) in err
    assert len(kb.read_rollouts(there)) >= 16
    assert "rao_blackwell" in out


# Screens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_screen_without_the_characters_gets_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str, as_json: bool
) -> None:
    (tmp_path / "p.txt").write_text("a dög\n狗 ran\n")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert run(*LINE, "--prompts", str(tmp_path / "p.txt"), *(["--json"] if as_json else [])) == 0
    shown = written.getvalue().decode(encoding)
    if as_json:
        assert {row["prompt"] for row in json.loads(shown)["differences"]["prompts"]} == {"a dög", "狗 ran"}
    else:
        assert "KL(policy||reference)" in shown
        assert "\\u72d7 ran" in shown
        assert ("+-" in shown) == (encoding == "ascii")
        assert (
            len({len(line) for line in shown.splitlines() if line.startswith((" k", " rao"))}) == 1
        )  # columns are aligned


@pytest.mark.parametrize("arguments", [["claims"], ["claims", "--json"]])
def test_a_full_or_closed_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with monkeypatch.context() as patch, open("/dev/full", "w") as full:
        patch.setattr(sys, "stdout", full)
        assert run(*arguments) == 2
    assert "stdout cannot be written (No space left on device)" in capsys.readouterr().err
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as gone:
        patch.setattr(sys, "stdout", gone)
        assert run(*arguments) == 1
    assert capsys.readouterr().err == ""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run(*arguments) == 0
        sys.stdout.close()


def test_what_nobody_foresaw_is_a_sentence_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kullback.jobs import comparison

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the library's\nown words")

    monkeypatch.setattr(comparison, "asked_prompts", broken)
    assert run(*LINE) == 2
    err = capsys.readouterr().err
    assert err == (
        "kullback: RuntimeError: the library's own words: nobody foresaw this; kullback --debug … shows where it "
        "happened\n"
    )
    monkeypatch.setenv("KULLBACK_DEBUG", "")
    assert run("--debug", *LINE) == 2
    assert "Traceback" in capsys.readouterr().err
