"""Workers whose models are behind servers: one that goes away ends the job, and the job goes on once it is back."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_server import Fake, serving, table

import kullback as kb
from kullback.errors import ModelError
from kullback.jobs.engines import asked, run
from kullback.jobs.engines.pool import Heard
from kullback.jobs.engines.shards import Shards
from kullback.jobs.rescoring import crew, job
from kullback.models import connect, opening


class Here:
    """One worker, in this process."""

    def __init__(self, told: Any) -> None:
        self.worker = pickle.loads(pickle.dumps(told)).worker()
        self.asked: list[Any] = []

    def start(self) -> int:
        return 0

    def give(self, worker: int, batch: Any) -> None:
        self.asked.append(batch)

    def wait(self, seconds: float) -> list[Heard]:
        return [Heard(0, self.worker.finish(self.asked.pop()))]

    def close(self) -> None:
        self.asked.clear()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Fake, Fake]]:
    """Two servers, whose clients lose patience at once."""
    monkeypatch.setattr(opening, "connect", partial(connect, pause=0.001, attempts=2))
    for module, name in ((asked, "apart"), (job, "apart")):
        monkeypatch.setattr(module, name, lambda engine, call, *given: pickle.loads(pickle.dumps(call(*given))))
    monkeypatch.setattr(run, "_pool", lambda shift: Here(shift.order))
    monkeypatch.setattr(crew, "pool_of", lambda engine, told: Here(told))
    policy, reference = Fake(law=table(1)), Fake(law=table(2))
    with serving(policy) as policy.url, serving(reference) as reference.url:
        yield policy, reference


@pytest.fixture
def away(pair: tuple[Fake, Fake], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many shards are kept before the reference's server is away: none, once nothing is in it."""
    commit, left = Shards.commit, []  # type: ignore[var-annotated]

    def counted(self: Shards, number: int, shard: bytes) -> None:
        commit(self, number, shard)
        if left:
            left[0] -= 1
            pair[1].statuses[:] = [503] * 999 if not left[0] else []

    monkeypatch.setattr(Shards, "commit", counted)
    return left


def record(folder: Path) -> bytes:
    return (folder / "rollouts.parquet").read_bytes()


def test_a_server_that_is_away_for_a_minute_costs_nothing_that_was_drawn(
    pair: tuple[Fake, Fake], away: list[int], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"prompts": ["hello", "bye now"], "samples": 6, "max_new_tokens": 4, "batch_size": 2}
    urls = [one.url for one in pair]
    clean = kb.compare(*urls, workers=1, output=tmp_path / "clean", **options)
    away.append(2)
    with pytest.raises(ModelError, match=r"answered 503.*; what was finished is kept in .*shards: --resume") as raised:
        kb.compare(*urls, workers=1, output=tmp_path / "away", **options)
    assert len(raised.value.result.rollouts) == 4
    away.clear()
    pair[1].statuses.clear()
    drawn = len(pair[0].asked)
    found = kb.compare(*urls, workers=1, output=tmp_path / "away", resume=True, **options)
    assert found.rows[0].per_sequence == clean.rows[0].per_sequence
    assert record(tmp_path / "away") == record(tmp_path / "clean")
    asked_for = [one for one in pair[0].asked[drawn:] if one["max_tokens"] == 4 and one.get("return_token_ids")]
    seeds = [one["seed"] for one in asked_for if one["seed"] > 1]  # 1 is that of the probes
    assert len(seeds) == len(set(seeds)) == 12 - 4


def test_scoring_through_a_server_goes_on_too(
    pair: tuple[Fake, Fake], away: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "WINDOW", 4)
    rows = [kb.Rollout(prompt_tokens=[5, 6], tokens=[7, 8 + i % 3], behavior_logprobs=[-1.0, -1.0]) for i in range(20)]
    kb.write_rollouts(tmp_path / "rows.parquet", rows, kb.rollouts.Metadata())
    options: dict[str, Any] = {"policy": pair[0].url, "reference": pair[1].url, "workers": 1}
    kb.score_files(tmp_path / "rows.parquet", tmp_path / "clean.parquet", **options)
    away.append(2)
    with pytest.raises(ModelError, match=r"answered 503.*away\.parquet\.shards is what --resume goes on from"):
        kb.score_files(tmp_path / "rows.parquet", tmp_path / "away.parquet", **options)
    away.clear()
    pair[1].statuses.clear()
    kb.score_files(tmp_path / "rows.parquet", tmp_path / "away.parquet", resume=True, **options)
    assert (tmp_path / "away.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
