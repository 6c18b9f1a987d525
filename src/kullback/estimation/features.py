"""Columns with several numbers a token: of its prefix, and of itself less their mean under the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kullback.arrays import Numbers, to_numpy
from kullback.errors import InputError, ShapeError

FEATURES = ("state", "deviation")
"""Columns of which every token has several numbers."""

Features = Numbers | Sequence[Sequence[Sequence[float]]]
"""(batch, time, numbers), or rows of (tokens, numbers)."""


def features(name: str, values: Features, mask: npt.NDArray[np.bool_]) -> np.ndarray:
    """A column of several numbers a token as (batch, time, numbers), 0 where masked.

    Raises:
        ShapeError: it has other tokens than the mask, or no number.
        InputError: a counted number that is not finite.
    """
    rows = [to_numpy(row) for row in values] if isinstance(values, list | tuple) else None
    found = to_numpy(values) if rows is None else _padded(name, rows, mask.shape)
    if found.ndim != 3 or found.shape[:2] != mask.shape or not found.shape[2]:
        raise ShapeError(
            f"{name} has shape {found.shape}, but {mask.shape[0]} sequences of {mask.shape[1]} tokens came: it has "
            "one or more numbers for every token, (batch, time, numbers)"
        )
    if found.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {found.dtype}, but numbers are needed")
    check_finite(name, found[mask])
    return np.where(mask[..., None], found, np.zeros((), found.dtype))


def check_finite(name: str, counted: np.ndarray) -> None:
    """Refuse what is not finite, (tokens, numbers).

    Raises:
        InputError: by the column's name.
    """
    if not np.isfinite(counted).all():
        raise InputError(f"{name} holds a number that is not finite at a counted token: leave the column out")


def _padded(name: str, rows: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    widths = {row.shape[1] if row.ndim == 2 else -1 for row in rows}
    if len(widths) != 1 or -1 in widths or len(rows) != shape[0] or max(map(len, rows)) > shape[1]:
        raise ShapeError(f"{name} has rows of several shapes, but each is (tokens, numbers), with the same numbers")
    found = np.zeros((*shape, widths.pop()), dtype=np.result_type(*rows))
    for to, row in zip(found, rows, strict=True):
        to[: len(row)] = row
    return found
