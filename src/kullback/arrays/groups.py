"""The prompt of each row."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from kullback.arrays.library import can_look, is_jax, is_torch, to_numpy
from kullback.errors import InputError, ShapeError


def group_keys(groups: Any, rows: int) -> np.ndarray:
    """One key for each row, (batch,): numbers, text or anything hashable.

    Raises:
        ShapeError: not one key a row.
        InputError: a key that is missing (None or nan), or that cannot be compared.
    """
    keys = _keys(groups)
    if keys.shape != (rows,):
        raise ShapeError(f"groups has shape {keys.shape}, but one prompt id for each of the {rows} rows is needed")
    missing = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(rows, dtype=bool)
    if keys.dtype == object:
        missing = np.array([key is None or key != key for key in keys], dtype=bool)
    if missing.any():
        raise InputError(f"groups[{int(missing.argmax())}] is {keys[missing.argmax()]}, but a row's prompt has an id")
    return keys


def group_numbers(groups: Any, rows: int) -> np.ndarray:
    """The number of each row's prompt, in the order in which prompts come first; raises as `group_keys`."""
    keys = group_keys(groups, rows).tolist()
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], dtype=np.intp)


def _keys(groups: Any) -> np.ndarray:
    if (is_torch(groups) or is_jax(groups)) and not can_look(groups):
        raise InputError("groups is traced, but which rows share a prompt has to be known: pass a list or NumPy array")
    if isinstance(groups, np.ma.MaskedArray):
        groups = [None if hidden else key for key, hidden in zip(groups.data, np.ma.getmaskarray(groups), strict=True)]
    if is_torch(groups) or is_jax(groups) or (isinstance(groups, np.ndarray) and groups.dtype != object):
        return to_numpy(groups)
    if isinstance(groups, str | bytes | Mapping | set | frozenset) or not isinstance(groups, Iterable):
        raise InputError(
            f"groups is a {type(groups).__name__}, but a list or an array with the prompt id of each row is needed"
        )
    items = list(groups.to_pylist()) if hasattr(groups, "to_pylist") else list(groups)
    items = [item.item() if getattr(item, "shape", None) == () and hasattr(item, "item") else item for item in items]
    for row, item in enumerate(items):
        if not isinstance(item, Hashable) or hasattr(item, "shape"):
            raise ShapeError(f"groups[{row}] is a {type(item).__name__}, but one prompt id a row is needed, (batch,)")
    if {type(item) for item in items} in ({int}, {str}):
        return np.asarray(items)
    keys = np.empty(len(items), dtype=object)  # NumPy would make text of mixed keys, and columns of tuples
    keys[:] = items
    return keys
