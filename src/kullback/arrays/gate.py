"""The gate: columns of one batch are read, brought to one shape, and looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kullback.arrays.bounds import Bounds, check, place
from kullback.arrays.columns import Column, aligned, column, nothing_hidden
from kullback.arrays.library import check_shapes
from kullback.arrays.masks import counted
from kullback.errors import InputError


def read(given: Mapping[str, Any], mask: Any, bounds: Mapping[str, Bounds]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns as NumPy arrays of one (batch, time) shape, and which of their tokens count.

    Args:
        given: what came, by name; `logprobs` is among it.
        mask: what came as the mask, or None.
        bounds: what each column's counted numbers can be.

    Raises:
        ShapeError: columns that do not have one (batch, time) shape.
        InputError: a mask that is none, or a counted number that cannot be right.
    """
    columns, table = aligned(
        {name: column(name, x) for name, x in given.items()}, None if mask is None else column("mask", mask)
    )
    arrays = {name: found.values for name, found in columns.items()}
    check_shapes(arrays["logprobs"], arrays)
    counts = _counts(columns, table)
    for name, found in columns.items():
        refuse_absent(name, found, counts)
    for name, array in arrays.items():
        check(name, array, counts, bounds[name])
    return arrays, counts


def refuse_absent(name: str, table: Column, counts: np.ndarray) -> None:
    """Hold that a number stands where a token counts.

    Raises:
        InputError: None stands there.
    """
    if table.absent is not None and (table.absent & counts).any():
        row, token = place(table.absent & counts)
        raise InputError(
            f"{name}[{row}, {token}] is None, but a number is needed where a token counts: score the token, or mask it"
        )


def _counts(columns: Mapping[str, Column], mask: Column | None) -> np.ndarray:
    """The mask, and nothing that a list ends before or a masked array hides."""
    shape = columns["logprobs"].values.shape
    shown = nothing_hidden(columns.values())
    if mask is None:
        return np.ones(shape, dtype=bool) if shown is None else shown
    counts = counted(mask, shape)
    return counts if shown is None else counts & shown
