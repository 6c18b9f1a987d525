"""Several processes make the audits that one makes, in their order, and hand their failures over as sentences."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from test_audit_cli import VERL

import kullback as kb
from kullback.targets import TARGETS, Target

RUN = """
import sys
from kullback.auditing import crews
processes = int(sys.argv.pop(1))
crews._processes = lambda: processes
from kullback import cli
cli.main()
"""


def audited(folder: Path, processes: int) -> list[dict[str, object]]:
    command = [sys.executable, "-c", RUN, str(processes), "audit", "verl", "--source", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(done.stdout)["audits"]
    for audit in found:
        audit.pop("seconds", None)
    return list(found)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    (tmp_path / "verl/trainer/ppo").mkdir(parents=True)
    (tmp_path / "verl/trainer/ppo/core_algos.py").write_text(VERL)
    alone = audited(tmp_path, 1)
    assert audited(tmp_path, 2) == alone
    assert len(alone) > 4


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_is_itself_after_a_journey(target: Target) -> None:
    assert pickle.loads(pickle.dumps(target)) is target
    assert copy.deepcopy(target) is target


def test_a_target_of_ones_own_is_a_copy() -> None:
    mine = Target("mine", "KL", "sequence", kb.REVERSE_KL.divergence)
    assert pickle.loads(pickle.dumps(mine)) == mine
