"""A trainer's terms audited by several processes at once, where forking them is safe."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from kullback.auditing.assignments import Assignment
from kullback.auditing.report import AuditReport
from kullback.errors import KullbackError

FEWEST = 4
"""Audits from which on further processes are worth their start."""

Made = AuditReport | KullbackError
"""An audit, or what stopped it."""

_waiting: Sequence[Assignment] = ()
"""What forked processes find in their memory: functions out of files cannot be sent to them."""


class Crew:
    """Audits, asked for one after another; the first is made here, and imports what all of them need.

    Args:
        assignments: the audits that are to be made.
    """

    def __init__(self, assignments: Sequence[Assignment]) -> None:
        self._assignments = assignments
        self._pool: ProcessPoolExecutor | None = None
        self._sent: dict[int, Future[bytes | str | None]] = {}

    def prepare(self, number: int) -> None:
        """Before audit `number` is asked for, and while no other thread runs: fork, where that is due and safe."""
        if number != 1 or len(self._assignments) < FEWEST or _processes() < 2 or not _safe(self._assignments):
            return
        global _waiting
        _waiting = self._assignments
        rest = range(1, len(_waiting))
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(min(_processes(), len(rest)), context, initializer=_begin)
        self._sent = {one: self._pool.submit(_carried, one) for one in rest}

    def made(self, number: int) -> Made:
        """The audit of a number, wherever it is made."""
        if number not in self._sent:
            return _made(self._assignments[number])
        try:
            found = self._sent[number].result()
        except BrokenProcessPool:
            return KullbackError("the process that audited it was ended by it or by the system: audit it alone")
        if found is None:  # it holds something that no process can hand to another
            return _made(self._assignments[number])
        report: Made = KullbackError(found) if isinstance(found, str) else pickle.loads(found)
        return report

    def close(self) -> None:
        """End the processes, whatever they are at."""
        global _waiting
        _waiting = ()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _made(assignment: Assignment) -> Made:
    try:
        return assignment.report()
    except KullbackError as error:
        return error


def _carried(number: int) -> bytes | str | None:
    """An audit as bytes, or what stopped it; None where it cannot be carried."""
    made = _made(_waiting[number])
    if isinstance(made, KullbackError):
        return str(made)
    try:
        return pickle.dumps(made)
    except Exception:  # pickle and what it meets have errors of their own
        return None


def _begin() -> None:
    """Of a process that was forked: torch's threads are not there, and Ctrl-C is for the one that waits."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _safe(assignments: Sequence[Assignment]) -> bool:
    """Whether processes may be forked: not with JAX, whose threads do not survive it, nor where a GPU is in use."""
    torch = sys.modules.get("torch")
    arrays = {assignment.options.arrays for assignment in assignments}
    using = "jax" in sys.modules or "jax" in arrays or (torch is not None and torch.cuda.is_initialized())
    return hasattr(os, "fork") and not using
