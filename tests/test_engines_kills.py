"""Processes of workers, and who hands out their work, killed at random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from killed_runs import SCORING, SHARDS, begun, killed_to_the_end

import kullback as kb

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed, of one worker."""
    folder = tmp_path_factory.mktemp("clean")
    assert begun(json.dumps({"workers": 1, "output": str(folder)})).wait() == 0
    return folder


def record(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "estimate.json").read_text())
    del found["seconds"]
    return found


def test_a_hundred_kills_change_no_byte(clean: Path, tmp_path: Path) -> None:
    options = json.dumps({"workers": 2, "output": str(tmp_path)})
    counts = killed_to_the_end(options, tmp_path / "shards", 100, driver=0.05, victim="kullback.jobs.engines.child")
    assert counts["worker"] + counts["driver"] == 100
    assert counts["driver"] > 0
    assert (tmp_path / "rollouts.parquet").read_bytes() == (clean / "rollouts.parquet").read_bytes()
    assert record(tmp_path) == record(clean)
    assert record(tmp_path)["sequences"] == SHARDS


def test_kills_of_a_job_that_scores_a_file_change_no_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        kb.Rollout(prompt_tokens=[5, 9], tokens=tokens, behavior_logprobs=[-1.0] * 3)
        for tokens in rng.integers(3, 500, (64 * 60, 3)).tolist()
    ]
    kb.write_rollouts(tmp_path / "rows.parquet", rows, kb.rollouts.Metadata())
    given = {"path": str(tmp_path / "rows.parquet"), "workers": 2}
    clean, killed = tmp_path / "clean.parquet", tmp_path / "killed.parquet"
    assert begun(json.dumps({**given, "output": str(clean)}), SCORING).wait() == 0
    counts = killed_to_the_end(
        json.dumps({**given, "output": str(killed)}),
        tmp_path / "killed.parquet.shards",
        25,
        driver=0.1,
        victim="kullback.jobs.engines.child",
        script=SCORING,
        batches=60,
    )
    assert counts["worker"] + counts["driver"] == 25
    assert counts["driver"] > 0
    assert killed.read_bytes() == clean.read_bytes()
