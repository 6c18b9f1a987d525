"""Workers: every batch once and the same rows, whoever does them, and whatever is lost on the way."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kullback as kb
from kullback.errors import FileError, InputError, KullbackError, MissingPackageError, ModelError, StoppedError
from kullback.jobs.engines import asked, run
from kullback.jobs.engines.cluster import _check_reachable
from kullback.jobs.engines.crew import Answer, Order, Worker
from kullback.jobs.engines.pool import Engine, Heard
from kullback.jobs.engines.schedule import LOSSES, Schedule
from kullback.jobs.engines.shards import Shards, packed, unpacked
from kullback.jobs.engines.weights import weights_digest
from kullback.jobs.plans import Batch, Draw
from kullback.jobs.worker import Finished
from kullback.models.listing import TokenBracket
from kullback.models.pairs import Scores

SMALL: dict[str, Any] = {"prompts": ["One day", "The small dog", "Grace"], "samples": 6, "max_new_tokens": 3}
SMALL |= {"batch_size": 2, "seed": 4}
MODELS: dict[tuple[str, str], Worker] = {}


class Unsteady:
    """Workers in this process, of which some are lost before they answer; answers come in any order."""

    def __init__(self, order: Order, *, lost: float = 0.0, seed: int = 0) -> None:
        key = (order.policy, order.reference)
        if key not in MODELS:
            MODELS[key] = Worker(order)
        self.worker, self.worker.plan = MODELS[key], order.plan
        self.worker.models = self.worker.models.__class__(
            self.worker.models.policy, self.worker.models.reference, self.worker.models.samplers, order.bases
        )
        self.lost, self.rng = lost, np.random.default_rng(seed)
        self.asked: dict[int, int] = {}
        self.started = self.kills = 0
        self.in_a_row = 0

    def start(self) -> int:
        self.started += 1
        return self.started - 1

    def give(self, worker: int, batch: int) -> None:
        self.asked[worker] = batch

    def wait(self, seconds: float) -> list[Heard]:
        worker = list(self.asked)[int(self.rng.integers(len(self.asked)))]
        batch = self.asked.pop(worker)
        if self.rng.random() < self.lost and self.in_a_row < LOSSES - 1:
            self.kills += 1
            self.in_a_row += 1
            return [Heard(worker, None)]
        self.in_a_row = 0
        return [Heard(worker, self.worker.finish(batch))]

    def close(self) -> None:
        self.asked.clear()


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Unsteady]:
    """The pools that were made, with workers in this process."""
    made: list[Unsteady] = []

    def pool(shift: run.Shift) -> Unsteady:
        made.append(Unsteady(shift.order, lost=made_of["lost"], seed=len(made)))
        return made[-1]

    def apart(engine: Engine, call: Any, *arguments: Any) -> Any:
        return pickle.loads(pickle.dumps(call(*arguments)))

    made_of = {"lost": 0.0}
    monkeypatch.setattr(asked, "apart", apart)
    monkeypatch.setattr(run, "_pool", pool)
    monkeypatch.setattr(Unsteady, "made_of", made_of, raising=False)
    return made


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "estimate.json").read_text())
    del found["seconds"]
    return found


# Schedule -------------------------------------------------------------------------------------------------------


def batches(count: int, prompts: int = 3) -> list[Batch]:
    return [Batch("policy", (Draw(number * prompts // count, number),)) for number in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_every_batch_counts_once_whatever_is_lost_and_copied(seed: int) -> None:
    rng = np.random.default_rng(seed)
    done = set(rng.choice(40, 7, replace=False).tolist())
    schedule, at, counted = Schedule(batches(40), done), {}, Counter(done)
    workers = list(range(4))
    while schedule.open:
        for worker in workers:
            if worker not in at and (batch := schedule.next_for(worker)) is not None:
                at[worker] = batch
        worker = list(at)[int(rng.integers(len(at)))]
        batch = at.pop(worker)
        if rng.random() < 0.2:
            try:
                schedule.lose(worker)
            except ModelError:
                return
            workers[workers.index(worker)] = max(workers) + 1
        else:
            counted[batch] += schedule.finish(worker, batch)
    assert counted == Counter(range(40))


def test_a_straggler_is_copied_and_the_second_answer_does_not_count() -> None:
    schedule = Schedule(batches(2))
    assert [schedule.next_for(worker) for worker in (0, 1)] == [0, 1]
    assert schedule.finish(1, 1)
    assert schedule.next_for(1) == 0
    assert schedule.next_for(2) is None, "two copies are enough"
    assert schedule.finish(1, 0)
    assert not schedule.finish(0, 0)
    assert schedule.open == 0


def test_a_worker_goes_on_with_its_prompt() -> None:
    schedule = Schedule(batches(9))
    assert [schedule.next_for(worker) for worker in (0, 1)] == [0, 1]
    for batch in (0, 1):
        schedule.finish(batch, batch)
    assert schedule.next_for(0) == 2
    schedule.finish(0, 2)
    assert schedule.next_for(1) == 3
    assert schedule.next_for(0) == 4
    schedule.finish(1, 3)
    assert schedule.next_for(1) == 5


def test_workers_that_end_one_after_another_end_the_job() -> None:
    schedule = Schedule(batches(3))
    for worker in range(LOSSES):
        assert schedule.next_for(worker) == 0
        if worker < LOSSES - 1:
            schedule.lose(worker)
    with pytest.raises(ModelError, match="workers ended one after another"):
        schedule.lose(LOSSES - 1)


# The same rows --------------------------------------------------------------------------------------------------


def test_one_worker_and_four_write_the_same_bytes_and_this_process_the_same_numbers(
    tmp_path: Path, pools: list[Unsteady]
) -> None:
    one, four = (kb.compare(workers=n, output=tmp_path / str(n), both=True, **SMALL) for n in (1, 4))
    here = kb.compare(output=tmp_path / "here", both=True, **SMALL)
    assert [len(pools), pools[1].started] == [2, 4]
    assert (tmp_path / "1" / "rollouts.parquet").read_bytes() == (tmp_path / "4" / "rollouts.parquet").read_bytes()
    assert one.rollouts == four.rollouts == here.rollouts
    assert one.hotspots == four.hotspots == here.hotspots
    assert record(tmp_path / "1") == record(tmp_path / "4") == record(tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "4").iterdir()) == ["estimate.json", "rollouts.parquet"]


@pytest.mark.parametrize(("samples", "each", "kills"), [(6, 3, 3), pytest.param(134, 12, 100, marks=pytest.mark.slow)])
def test_kills_of_workers_and_of_the_whole_job_change_no_byte(
    tmp_path: Path, pools: list[Unsteady], monkeypatch: pytest.MonkeyPatch, samples: int, each: int, kills: int
) -> None:
    options = {**SMALL, "samples": samples}
    shards = 3 * samples // 2
    kb.compare(workers=2, output=tmp_path / "clean", **options)
    Unsteady.made_of["lost"] = 0.4  # type: ignore[attr-defined]
    commit, left = Shards.commit, 0

    def dying(self: Shards, number: int, shard: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:  # half of a shard is on the disk, and the driver is gone
            self.path(number).with_name(f"{number:06d}.parquet.pending").write_bytes(shard[: len(shard) // 2])
            raise SystemExit
        commit(self, number, shard)

    monkeypatch.setattr(Shards, "commit", dying)
    killed = tmp_path / "killed"
    for life in range(20):
        left = each
        try:
            found = kb.compare(workers=3, output=killed, resume=True, **options)
            break
        except SystemExit:
            assert len(list((killed / "shards").glob("*.parquet"))) == each * (life + 1)
    assert life == shards // each - (shards % each == 0)
    assert sum(pool.kills for pool in pools) >= kills
    assert found.complete
    assert (killed / "rollouts.parquet").read_bytes() == (tmp_path / "clean" / "rollouts.parquet").read_bytes()
    assert record(killed) == record(tmp_path / "clean")
    assert not (killed / "shards").exists()


def test_a_full_disk_keeps_what_found_room_and_resume_goes_on(
    tmp_path: Path, pools: list[Unsteady], monkeypatch: pytest.MonkeyPatch
) -> None:
    kb.compare(workers=2, output=tmp_path / "clean", **SMALL)
    room, sync = 4, os.fsync

    def full(file: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "full"
    with pytest.raises(FileError, match="free some room and go on with --resume") as caught:
        kb.compare(workers=2, output=folder, **SMALL)
    assert len(caught.value.result.rollouts) == 6, "the plan, and three batches"
    assert not list((folder / "shards").glob("*.pending"))
    with pytest.raises(FileError, match=r"already holds|holds the shards"):
        kb.compare(workers=2, output=folder, **SMALL)
    monkeypatch.undo()
    monkeypatch.setattr(run, "_pool", lambda shift: Unsteady(shift.order))
    kb.compare(workers=2, output=folder, resume=True, **SMALL)
    assert (folder / "rollouts.parquet").read_bytes() == (tmp_path / "clean" / "rollouts.parquet").read_bytes()
    assert record(folder) == record(tmp_path / "clean")


def test_ctrl_c_shows_what_was_finished_and_resume_goes_on(
    tmp_path: Path, pools: list[Unsteady], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, calls = Unsteady.wait, []

    def stopping(self: Unsteady, seconds: float) -> list[Heard]:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return wait(self, seconds)

    monkeypatch.setattr(Unsteady, "wait", stopping)
    with pytest.raises(StoppedError, match="--resume goes on from them") as caught:
        kb.compare(workers=2, output=tmp_path, **SMALL)
    assert len(caught.value.result.rollouts) == 4
    assert not record(tmp_path)["complete"]
    monkeypatch.setattr(Unsteady, "wait", wait)
    assert kb.compare(workers=2, output=tmp_path, resume=True, **SMALL).complete
    assert record(tmp_path)["complete"]


# What is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path, pools: list[Unsteady], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job that was killed after a batch."""
    commit = Shards.commit

    def dying(self: Shards, number: int, shard: bytes) -> None:
        commit(self, number, shard)
        raise SystemExit

    monkeypatch.setattr(Shards, "commit", dying)
    with pytest.raises(SystemExit):
        kb.compare(workers=1, output=tmp_path, **SMALL)
    monkeypatch.setattr(Shards, "commit", commit)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 5}, "is of a run with seed 4, and 5 came"),
        ({"samples": 7}, "is of a run with samples 6, and 7 came"),
        ({"policy": "builtin:base"}, "is of a run with policy 'builtin:tuned', and 'builtin:base' came"),
        ({"prompts": ["One day", "The small cat", "Grace"]}, "is of a run with prompts and batches"),
        ({"temperature": 0.5}, "is of a run with temperature 1.0, and 0.5 came"),
        ({"batch_size": 3}, "is of a run with batch_size 2, and 3 came"),
        ({"dtype": "bfloat16"}, "is of a run with dtype 'auto', and 'bfloat16' came"),
    ],
)
def test_resume_with_other_settings_is_refused(begun: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FileError, match=words):
        kb.compare(**{"workers": 1, "output": begun, "resume": True, **SMALL, **changes})
    assert len(list((begun / "shards").glob("*.parquet"))) == 1


def test_another_model_of_the_same_name_is_known(begun: Path) -> None:
    path = begun / "shards" / "plan.json"
    noted = json.loads(path.read_text())
    noted["log-probs of the first token"][1] += 0.1
    path.write_text(json.dumps(noted))
    with pytest.raises(FileError, match="log-probs of the first token"):
        kb.compare(workers=1, output=begun, resume=True, **SMALL)


def test_weights_that_changed_in_their_folder_are_known(tmp_path: Path) -> None:
    """Trainers write over a folder; a step changes the log-prob of one token by less than two devices do."""
    model = tmp_path / "step"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = np.zeros(2_000_000, np.float32)
    (model / "model.safetensors").write_bytes(weights.tobytes())
    before = weights_digest(str(model))
    assert weights_digest(str(model)) == before
    (model / "model.safetensors").write_bytes((weights + np.float32(1e-7)).tobytes())
    assert weights_digest(str(model)) != before
    assert weights_digest(str(model / "config.json")) is not None
    assert weights_digest("Qwen/Qwen3-0.6B") is None


def test_resume_with_other_files_is_refused(begun: Path) -> None:
    path = begun / "shards" / "plan.json"
    noted = json.loads(path.read_text())
    noted["policy's files"] = "0" * 64
    path.write_text(json.dumps(noted))
    with pytest.raises(FileError, match="policy's files"):
        kb.compare(workers=1, output=begun, resume=True, **SMALL)


def test_a_shard_keeps_what_a_server_s_words_bound(tmp_path: Path) -> None:
    found = kb.compare(**SMALL)
    plan = SimpleNamespace(prompts=[rollout.prompt_tokens for rollout in found.rollouts[::6]])
    rows = [
        replace(rollout, extra={"topk_kl_lower": 1 / 3, "topk_kl_upper": float("inf")}) for rollout in found.rollouts
    ]
    bounds = TokenBracket(*(np.ones(rows[0].length) for _ in range(3)))
    scores = [Scores(rollout.column("logprobs"), rollout.column("ref_logprobs"), bracket=bounds) for rollout in rows]
    batch = Batch("policy", tuple(Draw(rollout.prompt_id, rollout.sample) for rollout in rows))
    file = tmp_path / "shard"
    file.write_bytes(packed(Finished(tuple(rows), tuple(scores))))
    again = unpacked(plan, batch, file)
    assert [rollout.extra for rollout in again.rollouts] == [rollout.extra for rollout in rows]
    assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(again.scores, scores, strict=True))


def test_shards_without_their_plan_are_not_gone_on_from(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards")
    shards.commit(0, b"of another run")
    assert shards.begin({"seed": 1}) == set()
    assert not shards.path(0).exists()


def test_a_ray_cluster_that_nobody_runs_is_known_at_once() -> None:
    with socket.socket() as held:  # a port on which nobody listens
        held.bind(("127.0.0.1", 0))
        for address in ("127.0.0.1:{}", "ray://127.0.0.1:{}"):
            with pytest.raises(OSError, match="refused"):
                _check_reachable(address.format(held.getsockname()[1]))
    _check_reachable("auto")


def test_shards_are_not_written_over_unasked_and_a_damaged_one_is_named(begun: Path) -> None:
    with pytest.raises(FileError, match="holds the shards of a run that did not come to its end: go on with --resume"):
        kb.compare(workers=1, output=begun, **SMALL)
    shard = next((begun / "shards").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(FileError, match=f"{shard.name} is damaged"):
        kb.compare(workers=1, output=begun, resume=True, **SMALL)
    assert kb.compare(workers=1, output=begun, overwrite=True, **SMALL).complete
    assert not shard.parent.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": True, "workers": 1}, "resume came without output"),
        ({"resume": True, "output": "x"}, "resume came without workers"),
        ({"workers": 0}, "workers=0 came, but a number from 1"),
        ({"workers": True}, "workers=True came"),
        ({"engine": "slurm"}, "engine='slurm' came, but it is local or ray"),
        ({"gpus_per_worker": 1.0}, "without engine='ray'"),
        ({"workers": 2, "address": "auto"}, "without engine='ray'"),
    ],
)
def test_what_would_do_nothing_is_refused_before_anything_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kb.compare("nowhere", "nowhere", **options)


def test_parts_of_gpus_are_of_one() -> None:
    assert Engine("ray", 2, 0.25).gpus_per_worker == 0.25
    with pytest.raises(InputError, match="a part of one, or whole ones"):
        Engine("ray", 2, 1.5)


def test_vllm_s_engine_is_no_worker_s() -> None:
    with pytest.raises(InputError, match="sampler='vllm' came with workers"):
        kb.compare(workers=1, sampler="vllm", **SMALL)


def test_models_that_have_no_name_are_refused() -> None:
    from chains import POLICY, REFERENCE

    with pytest.raises(InputError, match="a Chain came as a model, but workers load models by name"):
        kb.compare(POLICY, REFERENCE, ["a"], workers=2)


def test_without_ray_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"ray is needed for this and is not installed: .*\[ray\]"):
        kb.compare("nowhere", "nowhere", engine="ray")


@pytest.mark.parametrize("kind", ["InputError", "FileError", "ModelError", "MissingPackageError"])
def test_a_workers_error_is_raised_where_it_was_asked(
    pools: list[Unsteady], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Worker, "finish", lambda self, number: Answer(number, error=(kind, "it broke")))
    with pytest.raises(KullbackError, match="it broke") as caught:
        kb.compare(workers=1, **SMALL)
    assert type(caught.value).__name__ == (kind if kind != "MissingPackageError" else "ModelError")
