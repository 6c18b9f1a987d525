"""Processes of workers, and who hands out their work, killed at random."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from killed_runs import SHARDS, begun, killed_to_the_end

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
    counts = killed_to_the_end(options, tmp_path, 100, driver=0.05, victim="kullback.jobs.engines.child")
    assert counts["worker"] + counts["driver"] == 100
    assert counts["driver"] > 0
    assert (tmp_path / "rollouts.parquet").read_bytes() == (clean / "rollouts.parquet").read_bytes()
    assert record(tmp_path) == record(clean)
    assert record(tmp_path)["sequences"] == SHARDS
