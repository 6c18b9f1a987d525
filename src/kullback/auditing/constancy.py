"""Whether a function stays the same one: between two calls, in training and evaluation, in other precisions."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.handling import rows_of_every_length
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.reading import Read
from kullback.auditing.subject.subject import Subject

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Rows

OFF_BY = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.5}
"""By how much rounding may move the result of four rows, relative to the largest number in it."""


@dataclass(frozen=True)
class Constancy:
    """Facts.

    Attributes:
        random: whether two calls on the same input differ, or random numbers are drawn.
        stateful: whether they differ where no random number is drawn and something is kept between them.
        kept: whether another batch of the same shape gives the first one's result.
        modes: what changes the result though the input is the same: "training mode", "no gradients".
        types: precisions in which it is another function, and by how much, relative.
        later: whether the first call, made again at the end, gives another result.
    """

    random: bool = False
    stateful: bool = False
    kept: bool = False
    modes: tuple[str, ...] = ()
    types: tuple[tuple[str, float], ...] = ()
    later: bool = False


def constancy(subject: Subject, read: Read, given: Columns, rows: Rows, *, half: bool) -> Constancy:
    """Call it again: with the same input, with another one, in other modes and precisions."""
    if read.keeps:
        subject.one_by_one()
    if read.memory is not None:
        subject.watch(read.memory)
    held = None if read.memory is None else read.memory.now()
    before = _draws()
    first = _called(subject, given, rows)
    drawn = _draws() != before
    again = _called(subject, given, rows)
    if first is None or again is None:
        return Constancy()
    if drawn or not np.allclose(first, again, rtol=1e-12, atol=0, equal_nan=True):
        stateful = not drawn and held is not None and not held.same()
        return Constancy(random=True, stateful=stateful, modes=_modes(subject, read, given, rows))
    other = _called(subject, given, [1, 5, 10, 13])
    return Constancy(
        kept=other is not None and bool(np.array_equal(first, other, equal_nan=True)) and bool(np.any(first != 0)),
        modes=_modes(subject, read, given, rows),
        types=() if half else _types(subject),
    )


def _called(subject: Subject, given: Columns, rows: Rows) -> Float64 | None:
    try:
        found: Float64 = subject(given, rows).detach().double().numpy()
    except CallFailed:
        return None
    return found


def differs(subject: Subject, given: Columns, rows: Rows, before: Float64) -> bool:
    """Whether a call gives another result than it did before."""
    now = _called(subject, given, rows)
    return now is not None and not np.allclose(now, before, rtol=1e-9, atol=1e-12, equal_nan=True)


def _draws() -> object:
    """Where the generators of random numbers stand."""
    import torch

    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state(legacy=False)), random.getstate()


def _modes(subject: Subject, read: Read, given: Columns, rows: Rows) -> tuple[str, ...]:
    import torch

    found = []
    plain = _called(subject, given, rows)
    if read.switches:
        seen: list[Float64 | None] = []
        for mode in (True, False):
            with _in_mode(read.switches, mode):
                seen += [_called(subject, given, rows), _called(subject, given, rows)]
        if not all(_equal(seen[-1], one) for one in seen):
            found.append("training mode")
    if subject.arrays == "torch":
        with torch.no_grad():
            if not _equal(plain, _called(subject, given, rows)) and "training mode" not in found:
                found.append("no gradients")
    return tuple(found)


def _equal(a: Float64 | None, b: Float64 | None) -> bool:
    return a is None or b is None or bool(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True))


@contextlib.contextmanager
def _in_mode(switches: tuple[Any, ...], mode: bool) -> Iterator[None]:
    """Objects in training or in evaluation mode, and afterwards as they were."""
    before = [one.training for one in switches]
    try:
        for one in switches:
            _switch(one, mode)
        yield
    finally:
        for one, was in zip(switches, before, strict=True):
            _switch(one, was)


def _switch(one: Any, mode: bool) -> None:
    with contextlib.suppress(Exception):
        if callable(getattr(one, "train", None)):
            one.train(mode)
        else:
            one.training = mode


def _types(subject: Subject) -> tuple[tuple[str, float], ...]:
    import torch

    if subject.arrays == "numpy":
        return ()
    base = rows_of_every_length()
    found = []
    for name, allowed in OFF_BY.items():
        rounded = {k: v.to(getattr(torch, name)).double() if v.is_floating_point() else v for k, v in base.items()}
        wide = _called(subject, rounded, slice(None))
        narrow = _called(
            subject,
            {k: v.to(getattr(torch, name)) if v.is_floating_point() else v for k, v in rounded.items()},
            slice(None),
        )
        if wide is None or narrow is None or not np.isfinite(wide).all() or not (size := np.abs(wide).max()) > 1e-6:
            continue
        error = float(np.abs(narrow - wide).max() / size)
        if not error < allowed:
            found.append((name, error))
    return tuple(found)
