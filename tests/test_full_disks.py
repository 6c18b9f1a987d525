"""A disk that fills under a comparison: a small tmpfs, where the machine lets one be mounted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kullback as kb

WAYS = (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"])
"""To a mount namespace of one's own: as anybody, or as root where users may not have one."""

SIZES = (4, 12, 32, 256)
"""Kilobytes: no room for the first rows, for some, for all but not twice (the file is made of the part), for all."""


def _may_mount(way: list[str], disk: Path) -> bool:
    try:
        mounted = subprocess.run(
            [*way, "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True
        )
    except OSError:
        return False
    return mounted.returncode == 0


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What came of each size of disk."""
    disk = tmp_path_factory.mktemp("disk")
    way = next((way for way in WAYS if _may_mount(way, disk)), None)
    if way is None:
        pytest.skip("no tmpfs can be mounted here; test_endings.py has a limit on the size of files instead")
    command = [*way, sys.executable, str(Path(__file__).with_name("full_disks.py")), str(disk), *map(str, SIZES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {record["size"]: record for record in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def rows() -> list[list[float]]:
    """What a disk with room would hold."""
    whole = kb.compare(samples=8, max_new_tokens=4, batch_size=16).rollouts
    return [rollout.logprobs.astype(np.float32).tolist() for rollout in whole]


def test_the_sizes_are_of_every_kind(disks: dict[int, dict[str, Any]]) -> None:
    kinds = [tuple(disks[size]["files"]) for size in SIZES]
    assert () in kinds
    assert ("rollouts.parquet.part",) in kinds
    assert ("estimate.json", "rollouts.parquet") in kinds


@pytest.mark.parametrize("size", SIZES)
def test_what_was_finished_is_shown_and_read_back(
    disks: dict[int, dict[str, Any]], rows: list[list[float]], size: int
) -> None:
    found = disks[size]
    assert "rao_blackwell" in found["out"]
    assert "Traceback" not in found["err"]
    held = found["held"]
    assert held == rows[: len(held)]
    if found["status"] == 0:
        assert (len(held), found["err"]) == (160, "")
        return
    said = found["err"].splitlines()[-1]
    assert found["status"] == 2
    assert said.startswith("kullback: ")
    assert "No space left on device" in said
    assert ("kullback.read_rollouts(" in said) == bool(held) == bool(found["files"])
