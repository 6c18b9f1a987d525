"""A trainer's terms audited by several processes at once, where forking them is safe."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from kullback.auditing.assignments import Assignment
from kullback.auditing.report import AuditReport
from kullback.errors import KullbackError

FEWEST = 4
"""Audits from which on further processes are worth their start."""

Made = AuditReport | KullbackError
"""An audit, or what stopped it."""

_waiting: Sequence[Assignment] = ()


def audited(assignments: Sequence[Assignment]) -> Iterator[Made]:
    """The audits in their order; the first is made here, and with it is imported what all of them need."""
    if len(assignments) < FEWEST or _processes() < 2 or not _safe(assignments):
        yield from map(_made, assignments)
        return
    yield _made(assignments[0])
    if "jax" in sys.modules:  # its threads do not survive a fork
        yield from map(_made, assignments[1:])
        return
    global _waiting
    _waiting = assignments[1:]
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(min(_processes(), len(_waiting)), context, initializer=_alone)
    try:
        for report, words in pool.map(_sent, range(len(_waiting))):
            yield KullbackError(words) if report is None else report
    finally:
        pool.shutdown(cancel_futures=True)
        _waiting = ()


def _made(assignment: Assignment) -> Made:
    try:
        return assignment.report()
    except KullbackError as error:
        return error


def _sent(number: int) -> tuple[AuditReport | None, str]:
    made = _made(_waiting[number])
    return (None, str(made)) if isinstance(made, KullbackError) else (made, "")


def _alone() -> None:
    """Of a process that was forked: the threads that torch had are not there."""
    import torch

    torch.set_num_threads(1)


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _safe(assignments: Sequence[Assignment]) -> bool:
    """Whether processes may be forked: not where a GPU is in use, nor for arrays of JAX."""
    torch = sys.modules.get("torch")
    arrays = {assignment.options.arrays for assignment in assignments}
    return hasattr(os, "fork") and "jax" not in arrays and not (torch is not None and torch.cuda.is_initialized())
