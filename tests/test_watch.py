"""kullback watch: what a run writes while it is being read."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import kullback as kb
from kullback.cli.app import app
from kullback.errors import FileError, InputError
from kullback.jobs.watching import StepSeen, watch
from kullback.jobs.watching.following import Follower
from kullback.jobs.watching.job import STATE
from kullback.rollouts.readers.containers import lines


def rows(step: int | None, noise: float = 0.1, count: int = 48) -> list[kb.Rollout]:
    rng = np.random.default_rng([7, step or 0])
    found = []
    for number in range(count):
        p = -rng.exponential(size=6) - 0.5
        q = np.minimum(p + noise * rng.normal(size=6), 0)
        found.append(kb.Rollout(logprobs=q, ref_logprobs=p, prompt_id=number // 3, step=step))
    return found


def write(folder: Path, step: int, **options: Any) -> list[kb.Rollout]:
    found = rows(step, **options)
    kb.write_rollouts(folder / f"step_{step}.parquet", found)
    return found


def seen(folder: Path, **options: Any) -> list[StepSeen]:
    return list(watch(folder, follow=False, **options))


def k3(found: Sequence[kb.Rollout]) -> float:
    log_ratio = np.concatenate([row.column("logprobs") - row.column("ref_logprobs") for row in found]).astype(float)
    return float((np.expm1(-log_ratio) + log_ratio).sum() / len(found))


def test_a_step_is_what_its_rows_say(tmp_path: Path) -> None:
    written = {step: write(tmp_path, step) for step in (2, 10, 9)}
    found = seen(tmp_path)
    assert [(one.step, one.rows, one.prompts) for one in found] == [(2, 48, 16), (9, 48, 16), (10, 48, 16)]
    for one in found:
        assert one.metrics["kullback/policy/k3"] == pytest.approx(k3(written[one.step]), rel=1e-6)
        assert one.line().startswith(f"step {one.step}  KL ")


def test_ranks_of_a_step_are_one_step(tmp_path: Path) -> None:
    both = rows(5), rows(5, noise=0.3)
    for rank, part in enumerate(both):
        kb.write_rollouts(tmp_path / f"rank_{rank}.parquet", part)
    (one,) = seen(tmp_path)
    assert one.rows == 96
    assert one.metrics["kullback/policy/k3"] == pytest.approx(k3([*both[0], *both[1]]), rel=1e-6)


def test_files_without_a_step_are_steps_in_their_order(tmp_path: Path) -> None:
    for name in ("b2", "b10", "b1"):
        kb.write_rollouts(tmp_path / f"{name}.parquet", rows(None))
    assert [one.step for one in seen(tmp_path)] == [0, 1, 2]


def test_a_second_call_goes_on_behind_the_first(tmp_path: Path) -> None:
    for step in range(8):
        write(tmp_path, step)
    first = seen(tmp_path)
    for step in range(8, 12):
        write(tmp_path, step, noise=0.9)
    second = seen(tmp_path)
    assert [one.step for one in [*first, *second]] == list(range(12))
    assert any(one.alarms for one in second)
    (tmp_path / STATE).unlink()
    assert [one.alarms for one in seen(tmp_path)] == [one.alarms for one in [*first, *second]]


def test_a_file_that_grows_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    lines = [json.dumps({"logprobs": [-0.5], "ref_logprobs": [-0.7], "step": step}) for step in (0, 0, 1, 1, 2)]
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # a line that is being written
    assert [(one.step, one.rows) for one in seen(tmp_path)] == [(0, 2), (1, 1)]
    told: list[str] = []
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (time.time() + 5,) * 2)
    assert [(one.step, one.rows) for one in seen(tmp_path, tell=told.append)] == [(2, 1)]
    assert "1 rows of steps that were judged already" in told[0]


def test_what_is_half_written_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, 0)
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, 1)
    data = (whole / "step_1.parquet").read_bytes()
    os.rename(whole, tmp_path.with_name(tmp_path.name + "-aside"))
    (tmp_path / "step_1.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "step_2.parquet.tmp").write_bytes(b"PAR1")
    assert [one.step for one in seen(tmp_path)] == [0]
    (tmp_path / "step_1.parquet").write_bytes(data)
    assert [one.step for one in seen(tmp_path)] == [1]


def test_steps_are_judged_once_nothing_changes(tmp_path: Path) -> None:
    write(tmp_path, 0)
    write(tmp_path, 1)
    past = time.time() - 60
    for name in ("step_0.parquet", "step_1.parquet"):
        os.utime(tmp_path / name, (past, past))
    steps = watch(tmp_path, settle=30, every=0.01)
    assert (next(steps).step, next(steps).step) == (0, 1)
    write(tmp_path, 2)
    os.utime(tmp_path / "step_2.parquet", (past, past))
    assert next(steps).step == 2
    steps.close()  # type: ignore[attr-defined]


def test_a_file_that_stays_unreadable_is_named(tmp_path: Path) -> None:
    write(tmp_path, 0)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"logprobs": [-0.5], "ref_logprobs": ["x"], "step": 1}\n')
    os.utime(bad, (1.0, 1.0))
    told: list[str] = []
    steps = watch(tmp_path, settle=0.0, every=0.01, tell=told.append)
    assert next(steps).step == 0
    write(tmp_path, 1)
    assert next(steps).step == 1
    assert any(str(bad) in sentence for sentence in told)


def test_a_step_that_cannot_be_right_is_left_out_where_that_is_asked(tmp_path: Path) -> None:
    write(tmp_path, 0)
    kb.write_rollouts(tmp_path / "bad_1.parquet", [kb.Rollout(logprobs=[-0.5], ref_logprobs=[0.7], step=1)])
    write(tmp_path, 2)
    told: list[str] = []
    assert [one.step for one in seen(tmp_path, skip_bad=True, tell=told.append)] == [0, 2]
    assert "step 1: ref_logprobs[0, 0] is 0.7" in told[0]
    (tmp_path / STATE).unlink()
    with pytest.raises(InputError, match="step 1"):
        seen(tmp_path)


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is no folder"):
        seen(tmp_path / "none")
    kb.write_rollouts(tmp_path / "s.parquet", [kb.Rollout(behavior_logprobs=[-0.5])])
    with pytest.raises(InputError, match="step 0: the rows have the sampler's log-probs alone"):
        seen(tmp_path)
    (tmp_path / STATE).write_text("[]")
    with pytest.raises(FileError, match="is not what watch keeps: remove it"):
        seen(tmp_path)


def test_other_options_are_not_mixed_with_what_is_remembered(tmp_path: Path) -> None:
    write(tmp_path, 0)
    seen(tmp_path)
    with pytest.raises(InputError, match=r"watch\.json.*use equal options, or remove it"):
        seen(tmp_path, monitor=kb.KLMonitor(limit=3))


def test_a_folder_that_cannot_be_written_is_watched_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, 0)
    told: list[str] = []
    assert len(seen(tmp_path, state=tmp_path / "none" / "state.json", tell=told.append)) == 1
    assert "cannot be written" in told[0]


def test_the_command_says_a_line_a_step_and_ends_with_1_after_an_alarm(tmp_path: Path) -> None:
    for step in range(8):
        write(tmp_path, step)
    run = CliRunner().invoke(app, ["watch", str(tmp_path), "--once"])
    assert run.exit_code == 0, run.output
    assert [line.split("  ")[0] for line in run.stdout.splitlines()] == [f"step {step}" for step in range(8)]
    for step in range(8, 12):
        write(tmp_path, step, noise=0.9)
    run = CliRunner().invoke(app, ["watch", str(tmp_path), "--once", "--json"])
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.exit_code == 1
    assert [record["step"] for record in records] == [8, 9, 10, 11]
    assert any(alarm["kind"] == "change" for record in records for alarm in record["alarms"])


def test_control_c_ends_it_and_it_goes_on_later(tmp_path: Path) -> None:
    write(tmp_path, 0)
    command = [sys.executable, "-m", "kullback", "watch", str(tmp_path), "--settle", "0", "--every", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("step 0")
        time.sleep(0.5)  # until it is remembered
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=30)
    assert (run.returncode, out) == (0, "")
    assert "the same command goes on from here" in err
    assert not seen(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--log", "excel"], "metrics go to tensorboard, wandb, trackio"),
        (["--limit", "0"], "a number above 0"),
        (["--run-length", "nan"], "--run-length nan came"),
        (["--map", "logprobs"], "OURS=THEIRS is needed"),
    ],
)
def test_odd_options_are_one_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "kullback", "watch", str(tmp_path), "--once", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_what_a_tracker_prints_is_not_among_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, float]] = []
    fake = ModuleType("trackio")
    fake.init = lambda project: print(f"* project {project}")  # type: ignore[attr-defined]
    fake.log = lambda found, step: logged.append((step, found["kullback/policy/k3"]))  # type: ignore[attr-defined]
    fake.finish = lambda: print("* finished")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    written = write(tmp_path, 3)
    run = CliRunner().invoke(app, ["watch", str(tmp_path), "--once", "--json", "--log", "trackio:mine"])
    assert [json.loads(line)["step"] for line in run.stdout.splitlines()] == [3]
    assert "* project mine" in run.stderr
    assert "* finished" in run.stderr
    assert logged == [(3, pytest.approx(k3(written), rel=1e-5))]


@pytest.mark.peers
def test_tensorboard_reads_what_is_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    dumps, events = tmp_path / "dumps", tmp_path / "events"
    dumps.mkdir()
    written = write(dumps, 3)
    run = CliRunner().invoke(app, ["watch", str(dumps), "--once", "--log", f"tensorboard:{events}"])
    assert run.exit_code == 0, run.output
    found = EventAccumulator(str(events)).Reload().Scalars("kullback/policy/k3")
    assert [(one.step, one.value) for one in found] == [(3, pytest.approx(k3(written), rel=1e-5))]


def row(step: int) -> str:
    return json.dumps({"logprobs": [-0.5], "ref_logprobs": [-0.7], "step": step}) + "\n"


def taken(follower: Follower) -> list[int | None]:
    return [rollout.step for arrival in follower.look() for rollout in arrival.rollouts]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_lines_that_were_read_are_not_parsed_again(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, follower = tmp_path / "rollouts.jsonl", Follower(tmp_path)
    path.write_bytes(pack((row(0) * 3 + row(1)).encode()))
    assert taken(follower) == [0, 0, 0, 1]
    parsed: list[bytes] = []
    parse = lines.parsed
    monkeypatch.setattr(lines, "parsed", lambda line: (parsed.append(line), parse(line))[1])
    with path.open("ab") as file:
        file.write(pack((row(2) + row(3)).encode()))
    assert taken(follower) == [2, 3]
    assert parsed == [row(step).encode() for step in (0, 2, 3)]  # the first tells the format


def test_a_line_that_grows_is_taken_once_it_is_whole(tmp_path: Path) -> None:
    path, follower = tmp_path / "rollouts.jsonl", Follower(tmp_path, skip_bad=True)
    for text, wanted in ((row(0) + row(1)[:20], [0]), (row(1)[20:], [1]), (row(2)[:-1], [2]), ("\n" + row(3), [3])):
        with path.open("a") as file:
            file.write(text)
        assert taken(follower) == wanted


@pytest.mark.parametrize("first", [0, 7], ids=["as it was", "with other rows"])
def test_a_file_that_is_written_anew_is_read_behind_as_many_rows(first: int, tmp_path: Path) -> None:
    path, follower = tmp_path / "rollouts.jsonl", Follower(tmp_path)
    path.write_text(row(0) + row(1))
    assert taken(follower) == [0, 1]
    path.write_text(row(first) + row(first + 10) + row(2) + row(3))
    assert taken(follower) == [2, 3]
