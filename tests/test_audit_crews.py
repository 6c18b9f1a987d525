"""Several processes make the audits that one makes, in their order, and hand their failures over as sentences."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from test_audit_cli import VERL

import kullback as kb
from kullback.targets import TARGETS, Target

RUN = """
import sys
from kullback.auditing import crews
processes, ends = map(int, sys.argv[1:3])
del sys.argv[1:3]
crews._processes = lambda: processes
carried = crews._carried
def of_this_time(number):
    if ends and number == 2:
        __import__("os")._exit(3)
    return None if number == 3 else carried(number)  # as if the third could not be carried
crews._carried = of_this_time
from kullback import cli
cli.main()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "verl/trainer/ppo").mkdir(parents=True)
    (tmp_path / "verl/trainer/ppo/core_algos.py").write_text(VERL)
    return tmp_path


def audited(checkout: Path, processes: int, *, ends: bool = False) -> tuple[list[dict[str, Any]], str, int]:
    options = [str(processes), str(int(ends)), "audit", "verl", "--source", str(checkout), "--json"]
    done = subprocess.run([sys.executable, "-c", RUN, *options], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)["audits"]
    for audit in found:
        audit.pop("seconds", None)
    return found, done.stderr, done.returncode


@pytest.mark.slow
def test_two_processes_find_what_one_finds(checkout: Path) -> None:
    alone = audited(checkout, 1)
    assert audited(checkout, 2) == alone
    assert len(alone[0]) > 4


@pytest.mark.slow
def test_code_that_ends_its_process_takes_a_sentence_and_not_the_others_with_it(checkout: Path) -> None:
    alone, _, _ = audited(checkout, 1)
    found, said, status = audited(checkout, 2, ends=True)
    assert status == 2
    assert "the process that audited it was ended" in said
    assert found == [audit for audit in alone if audit["subject"] in {one["subject"] for one in found}]
    assert found[0] == alone[0]


@pytest.mark.slow
def test_a_terminal_that_draws_does_not_hold_up_what_is_forked(checkout: Path) -> None:
    """On a pty a thread draws the status: no process may be forked while it holds a lock."""
    leader, follower = pty.openpty()
    options = ["2", "0", "audit", "verl", "--source", str(checkout), "--json"]
    job = subprocess.Popen([sys.executable, "-c", RUN, *options], stdout=subprocess.PIPE, stderr=follower, text=True)
    os.close(follower)
    reader = threading.Thread(target=_drained, args=(leader,), daemon=True)
    reader.start()
    out, _ = job.communicate(timeout=300)
    assert len(json.loads(out)["audits"]) > 4


def _drained(leader: int) -> None:
    with contextlib.suppress(OSError):  # the other end was closed
        while os.read(leader, 1 << 16):
            pass


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_is_itself_after_a_journey(target: Target) -> None:
    assert pickle.loads(pickle.dumps(target)) is target
    assert copy.deepcopy(target) is target


def test_a_target_of_ones_own_is_a_copy() -> None:
    mine = Target("mine", "KL", "sequence", kb.REVERSE_KL.divergence)
    assert pickle.loads(pickle.dumps(mine)) == mine
