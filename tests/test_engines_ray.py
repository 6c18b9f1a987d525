"""Workers as actors of Ray: the same rows, whatever is killed (make test-ray)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from killed_runs import SHARDS, begun, killed_to_the_end

import kullback as kb
from kullback.errors import InputError, ModelError

pytestmark = pytest.mark.servers

SMALL: dict[str, Any] = {"prompts": ["One day", "The small dog", "Grace"], "samples": 4, "max_new_tokens": 4}
SMALL |= {"batch_size": 2, "seed": 4}


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Ray is an extra."""
    pytest.importorskip("ray")


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "estimate.json").read_text())
    del found["seconds"]
    return found


def test_actors_write_the_bytes_that_processes_write(tmp_path: Path) -> None:
    kb.compare(workers=1, output=tmp_path / "local", **SMALL)
    for workers in (1, 3):
        kb.compare(engine="ray", workers=workers, output=tmp_path / str(workers), **SMALL)
        for name in ("rollouts.parquet",):
            assert (tmp_path / str(workers) / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
        assert record(tmp_path / str(workers)) == record(tmp_path / "local")


def test_rows_of_a_file_are_scored_to_the_same_bytes(tmp_path: Path) -> None:
    kb.compare(output=tmp_path / "rows", **SMALL)
    options = {"policy": "builtin:tuned", "reference": "builtin:base", "overwrite_columns": True}
    written = []
    for engine, workers in (("local", 1), ("ray", 2)):
        output = tmp_path / f"{engine}.parquet"
        kb.score_files(tmp_path / "rows", output, engine=engine, workers=workers, **options)  # type: ignore[arg-type]
        written.append(output.read_bytes())
    assert written[0] == written[1]


def test_a_cluster_that_is_there_plans_and_is_left_running(tmp_path: Path) -> None:
    import ray

    kb.compare(workers=1, output=tmp_path / "local", **SMALL)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        kb.compare(engine="ray", workers=2, output=tmp_path / "there", **SMALL)
        with pytest.raises(ModelError, match="builtin:nowhere"):
            kb.compare("builtin:nowhere", engine="ray", **SMALL)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert (tmp_path / "there" / "rollouts.parquet").read_bytes() == (
        tmp_path / "local" / "rollouts.parquet"
    ).read_bytes()


def test_what_ray_has_not_is_said() -> None:
    with pytest.raises(InputError, match="gpus_per_worker=1 came, but the Ray cluster has 0 GPUs"):
        kb.compare(engine="ray", gpus_per_worker=1, **SMALL)
    with pytest.raises(InputError, match=r"Ray could not be reached at 127\.0\.0\.1:1"):
        kb.compare(engine="ray", address="127.0.0.1:1", **SMALL)


def test_a_model_that_a_worker_cannot_load_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from kullback.jobs.engines import asked
    from kullback.jobs.engines.crew import Order

    def other(plan: Any, policy: str, *rest: Any) -> Order:
        return Order(plan, "builtin:nowhere", *rest)

    monkeypatch.setattr(asked, "Order", other)
    with pytest.raises(ModelError, match="builtin:nowhere"):
        kb.compare(engine="ray", workers=1, **SMALL)


def test_a_hundred_kills_of_actors_of_the_driver_and_of_ray_change_no_byte(tmp_path: Path) -> None:
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    assert begun(json.dumps({"workers": 1, "output": str(clean)})).wait() == 0
    options = json.dumps({"engine": "ray", "workers": 2, "output": str(killed)})
    counts = killed_to_the_end(options, killed / "shards", 100, driver=0.03, ray=0.07, victim="ray::Actor")
    assert counts["worker"] + counts["driver"] + counts["ray"] == 100
    assert counts["ray"] > 0
    assert (killed / "rollouts.parquet").read_bytes() == (clean / "rollouts.parquet").read_bytes()
    assert record(killed) == record(clean)
    assert record(killed)["sequences"] == SHARDS
