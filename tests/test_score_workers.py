"""Scoring files with workers: the bytes of one process whatever their number, and nothing lost or twice."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from toy_scorers import Letters

import kullback as kb
from kullback.errors import FileError, InputError, ModelError, StoppedError
from kullback.jobs.engines.pool import Engine, Heard
from kullback.jobs.engines.shards import Shards
from kullback.jobs.rescoring import crew, job
from kullback.jobs.rescoring.crew import Reviewer, Reviewing

PAIR: dict[str, Any] = {"policy": "builtin:tuned", "reference": "builtin:base"}
READY: dict[str, Reviewer] = {}


class Unsteady:
    """Workers in this process that answer last come first, and of which some are lost."""

    lost: tuple[int, ...] = ()

    def __init__(self, asked: Reviewing) -> None:
        self.worker = READY.setdefault(repr(asked), READY.get(repr(asked)) or asked.worker())
        self.asked: dict[int, bytes] = {}
        self.started = self.heard = 0

    def start(self) -> int:
        self.started += 1
        return self.started - 1

    def give(self, worker: int, batch: Any) -> None:
        self.asked[worker] = pickle.dumps(batch)

    def wait(self, seconds: float) -> list[Heard]:
        worker = max(self.asked)
        piece = pickle.loads(self.asked.pop(worker))
        self.heard += 1
        return [Heard(worker, None if self.heard in self.lost else self.worker.finish(piece))]

    def close(self) -> None:
        self.asked.clear()


@pytest.fixture(autouse=True)
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Unsteady]:
    """The pools that were made."""
    made: list[Unsteady] = []

    def pool(engine: Engine, asked: Reviewing) -> Unsteady:
        made.append(Unsteady(asked))
        return made[-1]

    monkeypatch.setattr(crew, "pool_of", pool)
    monkeypatch.setattr(job, "apart", lambda engine, call, *given: pickle.loads(pickle.dumps(call(*given))))
    monkeypatch.setattr(job, "WINDOW", 8)
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows of both models: 8 windows."""
    folder = tmp_path_factory.mktemp("source")
    kb.compare(prompts=["One day", "Grace", "A bird"], samples=10, max_new_tokens=6, both=True, output=folder, seed=3)
    return folder / "rollouts.parquet"


def scored(source: Path, output: Path, **options: Any) -> bytes:
    given: dict[str, Any] = {**PAIR, "overwrite_columns": True, "temperature": 0.9, "batch_size": 4} | options
    kb.score_files(source, output, **given)
    return output.read_bytes()


def test_workers_write_the_bytes_of_one_process(source: Path, tmp_path: Path, pools: list[Unsteady]) -> None:
    here = scored(source, tmp_path / "here.parquet")
    for workers in (1, 3):
        assert scored(source, tmp_path / f"{workers}.parquet", workers=workers) == here
    assert [pool.started for pool in pools] == [1, 3]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".shards"]


@pytest.mark.parametrize("options", [{"policy": None}, {"reference": None, "overwrite_columns": False}])
def test_one_model_is_scored_alike(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    here = scored(source, tmp_path / "here.parquet", **options)
    assert scored(source, tmp_path / "two.parquet", workers=2, **options) == here


def test_lost_workers_change_no_byte(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = scored(source, tmp_path / "clean.parquet", workers=2)
    monkeypatch.setattr(Unsteady, "lost", (1, 3, 4, 7))
    assert scored(source, tmp_path / "lost.parquet", workers=2) == clean
    monkeypatch.setattr(Unsteady, "lost", tuple(range(100)))
    with pytest.raises(
        ModelError, match=r"5 workers ended one after another.*none\.parquet\.shards is what --resume goes on from"
    ):
        scored(source, tmp_path / "none.parquet", workers=2)


def test_a_killed_job_goes_on_and_scores_nothing_twice(
    source: Path, tmp_path: Path, pools: list[Unsteady], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, output = scored(source, tmp_path / "clean.parquet", workers=2), tmp_path / "killed.parquet"
    commit, left = Shards.commit, 3

    def dying(self: Shards, number: int, shard: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            self.path(number).with_name(f"{number:06d}.parquet.pending").write_bytes(shard[:100])
            raise KeyboardInterrupt
        commit(self, number, shard)

    monkeypatch.setattr(Shards, "commit", dying)
    with pytest.raises(StoppedError, match=r"killed\.parquet\.shards is what --resume goes on from"):
        scored(source, output, workers=2, overwrite=True)
    monkeypatch.setattr(Shards, "commit", commit)
    with pytest.raises(FileError, match="of a run that did not come to its end: go on with --resume"):
        scored(source, output, workers=2)
    with pytest.raises(FileError, match=r"is of a run with temperature 0\.9, and 1\.0 came"):
        scored(source, output, workers=2, resume=True, temperature=1.0)
    assert scored(source, output, workers=3, resume=True) == clean
    assert pools[-1].heard == 8 - 3
    assert not (tmp_path / "killed.parquet.shards").exists()


def test_a_file_that_changed_is_not_gone_on_from(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, path = list(kb.read_rollouts(source)), tmp_path / "rows.parquet"
    kb.write_rollouts(path, rows, kb.read_rollouts(source).metadata)
    sync, room = os.fsync, 3

    def full(file: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"No space left on device.*go on with --resume"):
        scored(path, tmp_path / "o.parquet", workers=1)
    monkeypatch.setattr(os, "fsync", sync)
    kb.write_rollouts(path, rows[::-1], kb.read_rollouts(source).metadata)
    with pytest.raises(FileError, match="holds scores of other tokens than are read now"):
        scored(path, tmp_path / "o.parquet", workers=1, resume=True)
    whole = scored(path, tmp_path / "o.parquet", workers=1, overwrite=True)
    assert whole == scored(path, tmp_path / "again.parquet")


def test_what_workers_cannot_do_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a Letters came as a model, but workers load models by name"):
        scored(source, tmp_path / "o.parquet", policy=Letters(), workers=2)
    with pytest.raises(InputError, match="resume came without workers"):
        scored(source, tmp_path / "o.parquet", resume=True)
    damaged = tmp_path / "o.parquet.shards"
    damaged.mkdir()
    (damaged / "000000.parquet").write_bytes(b"x")
    assert scored(source, tmp_path / "o.parquet", workers=1, resume=True), "shards without their plan are nobody's"
