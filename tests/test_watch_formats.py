"""kullback watch over the folders that trainers write: a marker beside ranks, a file a step, one file that grows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dumped_sequences import POLICY, SAMPLER
from dumps_of_trainers import EXPORTS, NEMO_RL, SLIME_TRAIN, VERIFIERS

from kullback.jobs.watching import StepSeen, watch
from kullback.jobs.watching.job import STATE

PAST = 1e9
"""When a file was changed that nothing is written to any more."""


def k3(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], rows: Sequence[int]) -> float:
    """A sequence, over some of the four."""
    ratios = [np.asarray(second[row]) - np.asarray(first[row]) for row in rows]
    return float(sum((np.expm1(ratio) - ratio).sum() for ratio in ratios) / len(rows))


def once(folder: Path) -> list[StepSeen]:
    return list(watch(folder, follow=False))


def lines(records: Sequence[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def export(folder: Path, step: int, rank: int = 0) -> Path:
    path = folder / f"step_{step}" / f"rank_{rank}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(lines([{**record, "step": step, "rank": rank} for record in EXPORTS.records]))
    return path


def test_prime_rl_says_when_a_step_is_whole(tmp_path: Path) -> None:
    """Both ranks count, and nothing before the marker, however long it takes."""
    export(tmp_path, 9)
    (tmp_path / "step_9" / "STABLE").touch()
    steps = watch(tmp_path, settle=1e6, every=0.01, state=tmp_path.with_name(tmp_path.name + ".state"))
    assert next(steps).step == 9
    assert [one.step for one in once(tmp_path)] == [9]
    for rank in (0, 1):
        os.utime(export(tmp_path, 10, rank), (PAST, PAST))
    assert once(tmp_path) == []
    (tmp_path / "step_10" / "STABLE").touch()
    found = next(steps)
    assert (found.step, found.rows) == (10, 8)
    assert found.metrics["kullback/mismatch/k3"] == pytest.approx(k3(SAMPLER, POLICY, range(4)), rel=1e-6)
    steps.close()  # type: ignore[attr-defined]


def test_nemo_rl_writes_a_file_a_step(tmp_path: Path) -> None:
    for step in (10, 2):
        (tmp_path / f"train_data_step{step}.jsonl").write_text(lines(NEMO_RL.records))
    text = lines(NEMO_RL.records)
    growing = tmp_path / "train_data_step11.jsonl"
    growing.write_text(text[: len(text) // 2])
    found = once(tmp_path)
    assert [(one.step, one.rows) for one in found[:2]] == [(2, 3), (10, 3)]
    for one in found[:2]:
        assert one.metrics["kullback/mismatch/k3"] == pytest.approx(k3(SAMPLER, POLICY, range(3)), rel=1e-6)


def test_slime_writes_a_pickle_a_step_through_no_other_name(tmp_path: Path) -> None:
    """What of it is there opens as no archive until it is whole."""
    torch = pytest.importorskip("torch")
    saved = {}
    for step in (6, 7):
        whole: dict[str, Any] = {**SLIME_TRAIN.records[0], "rollout_id": step}
        samples = [
            {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in one.items()}
            for one in whole["samples"]
        ]
        torch.save({**whole, "samples": samples}, tmp_path / f"{step}_0.pt")
        saved[step] = (tmp_path / f"{step}_0.pt").read_bytes()
    (tmp_path / "7_0.pt").write_bytes(saved[7][: len(saved[7]) // 2])
    [six] = once(tmp_path)
    assert (six.step, six.rows, six.prompts) == (6, 4, 2)
    assert six.metrics["kullback/mismatch/k3"] == pytest.approx(k3(SAMPLER, POLICY, range(4)), rel=1e-6)
    weights = np.array([np.exp(np.sum(np.subtract(POLICY[row], SAMPLER[row]))) for row in range(4)])
    assert six.metrics["kullback/policy/ess"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / 4, rel=1e-5)
    (tmp_path / "7_0.pt").write_bytes(saved[7])
    assert [one.step for one in once(tmp_path)] == [7]


def traces(step: int) -> str:
    return lines([{**record, "run": {"work": {"step": step}}} for record in VERIFIERS.records])


def test_verifiers_appends_to_one_file(tmp_path: Path) -> None:
    """Looked at in the middle of a line, between two calls, and after a restart that begins anew."""
    path = tmp_path / "traces.jsonl"
    path.write_text(traces(0))
    steps = watch(tmp_path, settle=0.02, every=0.005)
    first = next(steps)
    assert (first.step, first.rows, first.prompts) == (0, 4, 2)
    assert first.metrics["kullback/mismatch/k3"] == pytest.approx(k3(SAMPLER, POLICY, range(4)), rel=1e-6)
    more = traces(1)
    with path.open("a") as file:
        file.write(more[:-40])
        file.flush()
        with path.open("a") as other:
            other.write(more[-40:] + traces(2))
    found = [next(steps), next(steps)]
    assert [(one.step, one.rows) for one in found] == [(1, 4), (2, 4)]
    steps.close()  # type: ignore[attr-defined]
    with path.open("a") as file:
        file.write(traces(3))
    # The last that was handed over is judged again: it may not have been taken before the end.
    assert [(one.step, one.rows) for one in once(tmp_path)] == [(2, 4), (3, 4)]
    (tmp_path / STATE).unlink()
    assert [one.rows for one in once(tmp_path)] == [4] * 4


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    text = traces(0) + traces(1)
    path.write_text(text[:-30])
    told: list[str] = []
    found = list(watch(tmp_path, follow=False, tell=told.append))
    assert [(one.step, one.rows) for one in found] == [(0, 4), (1, 3)]
