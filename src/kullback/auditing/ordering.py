"""Whether a row's result is the same, and stands at its own place, wherever the row stands in its batch."""

from __future__ import annotations

from typing import Literal

import numpy as np

from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject
from kullback.auditing.worlds import Setting, columns

Ordering = Literal["", "moved", "placed"]
"""Nothing; results stand at other rows' places; what a row gives depends on its place."""


def ordering(subject: Subject, setting: Setting, tolerance: float) -> Ordering:
    """What becomes of two rows that change places, by three pairs of different lengths.

    Pairs alone: code that takes neighbours for the samples of a prompt may tell more rows apart by their places.
    """
    if subject.layout == "packed":
        return ""
    given = {name: array.detach() for name, array in columns(setting).items()}
    count = len(given["mask"])
    found: list[Ordering] = []
    for a, b in ((0, count - 1), (count // 2, 1), (count - 1, count // 2)):
        try:
            one, other = (subject(given, rows).double().detach().numpy() for rows in ([a, b], [b, a]))
        except CallFailed:
            return ""
        found.append(_changed(one, other if subject.kind == "scalar" else other[::-1], max(1e-6, 10 * tolerance)))
    return next((kind for kind in ("placed", "moved") if kind in found), "")


def _changed(one: np.ndarray, back: np.ndarray, tolerance: float) -> Ordering:
    """Two results that are to be one, the rows of the second put back."""
    if _same(one, back, tolerance):
        return ""
    return "moved" if one.ndim and _same(one, back[::-1], tolerance) else "placed"


def _same(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
