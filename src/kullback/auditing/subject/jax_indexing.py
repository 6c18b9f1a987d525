"""JAX's gather and scatter in NumPy: which places of an array the rows of an array of starts stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Value = npt.NDArray[Any]


@dataclass(frozen=True)
class Windows:
    """How the windows that are read or written lie, in the words of JAX's `GatherDimensionNumbers`.

    Attributes:
        offsets: the dimensions of the result that walk along a window.
        collapsed: the operand's dimensions in which a window is one wide and has no dimension.
        starts: the operand's dimension that each number of a row of starts is for.
        operand_batch, starts_batch: dimensions that operand and starts share.
        sizes: a window's size in each of the operand's dimensions.
    """

    offsets: Sequence[int]
    collapsed: Sequence[int]
    starts: Sequence[int]
    operand_batch: Sequence[int]
    starts_batch: Sequence[int]
    sizes: Sequence[int]

    def places(self, shape: Sequence[int], starts: Value, *, clip: bool) -> tuple[tuple[Value, ...], Value]:
        """The index of each number of the result, an array an operand's dimension, and whether its window is inside."""
        kept = [d for d in range(len(shape)) if d not in self.collapsed and d not in self.operand_batch]
        rank = starts.ndim - 1 + len(self.offsets)
        rows = [d for d in range(rank) if d not in self.offsets]
        inside: Value = np.ones((1,) * rank, bool)
        found: list[Value] = []
        for d, length in enumerate(shape):
            at: Value = np.zeros((1,) * rank, np.int64)
            if d in self.starts:
                first = starts[..., list(self.starts).index(d)].astype(np.int64)
                last = length - self.sizes[d]
                fits = (first >= 0) & (first <= last)
                at = at + _along(np.clip(first, 0, max(last, 0)), rows, rank)
                inside = inside & (clip | _along(fits, rows, rank))
            if d in self.operand_batch:
                dimension = rows[self.starts_batch[list(self.operand_batch).index(d)]]
                at = at + _along(np.arange(length), [dimension], rank)
            if d in kept:
                at = at + _along(np.arange(self.sizes[d]), [self.offsets[kept.index(d)]], rank)
            found.append(at)
        return tuple(found), inside


def _along(array: Value, dimensions: Sequence[int], rank: int) -> Value:
    """An array whose dimensions are these of `rank`."""
    shape = [1] * rank
    for own, dimension in enumerate(dimensions):
        shape[dimension] = array.shape[own]
    return array.reshape(shape)


def gather(x: Value, starts: Value, *, dimension_numbers: Any, slice_sizes: Any, mode: Any, fill_value: Any) -> Value:
    """`jax.lax.gather`: windows outside are moved inside, or filled."""
    lie = dimension_numbers
    windows = Windows(
        lie.offset_dims,
        lie.collapsed_slice_dims,
        lie.start_index_map,
        lie.operand_batching_dims,
        lie.start_indices_batching_dims,
        slice_sizes,
    )
    filled = _drops(mode)
    places, inside = windows.places(x.shape, starts, clip=not filled)
    found: Value = x[places]
    return np.where(inside, found, _fill(x.dtype) if fill_value is None else fill_value) if filled else found


def scattered(write: Callable[[Value, tuple[Value, ...], Value], None]) -> Callable[..., Value]:
    """`jax.lax.scatter` and its like: what `write` does to the places of an array with updates."""

    def scatter(x: Value, starts: Value, updates: Value, *, dimension_numbers: Any, mode: Any) -> Value:
        lie = dimension_numbers
        alone = {*lie.inserted_window_dims, *lie.operand_batching_dims}
        wide = iter(updates.shape[d] for d in lie.update_window_dims)
        windows = Windows(
            lie.update_window_dims,
            lie.inserted_window_dims,
            lie.scatter_dims_to_operand_dims,
            lie.operand_batching_dims,
            lie.scatter_indices_batching_dims,
            [1 if d in alone else next(wide) for d in range(x.ndim)],
        )
        places, inside = windows.places(x.shape, starts, clip=not _drops(mode))
        written = np.broadcast_to(inside, updates.shape)
        result = x.copy()
        write(result, tuple(np.broadcast_to(at, updates.shape)[written] for at in places), updates[written])
        return result

    return scatter


def _drops(mode: Any) -> bool:
    """Whether windows outside count for nothing; else they are moved inside."""
    return "FILL_OR_DROP" in str(mode)


def _fill(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return True
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max
    return np.nan
