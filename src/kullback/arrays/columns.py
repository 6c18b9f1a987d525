"""A column of numbers as people have it: arrays of any library, tables, ragged lists, None, masked arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kullback.arrays.library import is_jax, is_torch, to_numpy
from kullback.errors import InputError, ShapeError, shown


@dataclass(frozen=True)
class Column:
    """Numbers (batch, time), and what is not known of them.

    Attributes:
        values: the numbers, NumPy; 0 where a row has ended, nan where there is none.
        lengths: the tokens of each row of a list; None for an array, whose rows are all as long as it is wide.
        hidden: True where a masked array masks.
        absent: True where None stood.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None
    hidden: np.ndarray | None = None
    absent: np.ndarray | None = None

    @property
    def present(self) -> np.ndarray | None:
        """True where a row of a list has a token; None where all have."""
        return None if self.lengths is None else np.arange(self.values.shape[1]) < self.lengths[:, None]

    def wide(self, time: int) -> Column:
        """The same rows with room for so many tokens."""
        more = time - self.values.shape[1]
        if more == 0:
            return self
        values, hidden, absent = (
            None if a is None else np.pad(a, ((0, 0), (0, more))) for a in (self.values, self.hidden, self.absent)
        )
        assert values is not None
        return replace(self, values=values, hidden=hidden, absent=absent)


def column(name: str, x: Any) -> Column:
    """What came as a column, read.

    Raises:
        InputError: it holds something else than numbers and None.
        ShapeError: it is nested deeper than rows of numbers.
    """
    if isinstance(x, np.ma.MaskedArray):
        return Column(_numeric(name, np.asarray(x.data)), hidden=np.ma.getmaskarray(x))
    if is_torch(x):
        return _of_tensor(name, x)
    if is_jax(x) or (isinstance(x, np.ndarray) and x.dtype != object):
        return Column(_numeric(name, to_numpy(x)))
    if isinstance(x, str | bytes | Mapping | set | frozenset) or not (_is_table(x) or isinstance(x, Iterable)):
        raise InputError(f"{name} is a {type(x).__name__}, but rows of numbers are needed, (batch, time)")
    return _of_table(name, x)


def aligned(columns: Mapping[str, Column], mask: Column | None) -> tuple[dict[str, Column], Column | None]:
    """The columns with one (batch, time) shape, as long as the longest row.

    Raises:
        ShapeError: the rows of two columns differ in number or in length.
        InputError: a column of True and False.
    """
    for name, table in columns.items():
        if table.values.dtype == bool:
            raise InputError(f"{name} holds True and False, but numbers are needed: is it the mask?")
    tables = dict(columns) if mask is None else {**columns, "mask": mask}
    if all(table.lengths is None for table in tables.values()):
        return dict(columns), mask
    if any(table.values.ndim != 2 for table in tables.values()):
        return dict(columns), mask  # the check of shapes says which
    _check_lengths(tables)
    time = max(table.values.shape[1] for table in tables.values())
    padded = {name: table.wide(time) for name, table in tables.items()}
    return {name: padded[name] for name in columns}, padded.get("mask")


def nothing_hidden(tables: Iterable[Column]) -> np.ndarray | None:
    """True where every table has a number or None that is not masked; None where all do."""
    shown: np.ndarray | None = None
    for table in tables:
        for part in (table.present, None if table.hidden is None else ~table.hidden):
            if part is not None:
                shown = part if shown is None else shown & part
    return shown


def _of_tensor(name: str, x: Any) -> Column:
    if x.is_nested:
        return _of_rows(name, list(x.unbind()))
    if x.is_meta:
        raise InputError(f"{name} is a tensor on the device 'meta', which holds no numbers")
    return Column(_numeric(name, to_numpy(x.to_dense() if x.is_sparse else x)))


def _is_table(x: Any) -> bool:
    return hasattr(x, "to_pylist") or hasattr(x, "to_numpy") or hasattr(x, "__array__")


def _of_table(name: str, x: Any) -> Column:
    if hasattr(x, "to_pylist"):  # pyarrow
        return _of_rows(name, x.to_pylist())
    if hasattr(x, "to_numpy") or hasattr(x, "__array__"):  # pandas, polars and other array libraries
        try:
            found = np.asarray(x.to_numpy() if hasattr(x, "to_numpy") else x)
        except Exception as error:
            raise InputError(f"{name} is a {type(x).__name__}, of which NumPy makes no array: {error}") from error
        return _of_rows(name, list(found)) if found.dtype == object else Column(_numeric(name, found))
    return _of_rows(name, list(x))


def _of_rows(name: str, rows: list[Any]) -> Column:
    if not rows:
        return Column(np.zeros((0, 0)))
    if all(type(row) in (list, tuple) for row in rows):
        whole = _regular(rows)
        if whole is not None:
            return Column(whole, lengths=np.full(len(whole), whole.shape[1]))
    if all(row is None or np.isscalar(row) for row in rows):
        return Column(_numeric(name, np.array([np.nan if row is None else row for row in rows])))
    read = [_row(name, number, row) for number, row in enumerate(rows)]
    lengths = np.array([len(row.values) for row in read])
    time = int(lengths.max())
    return Column(
        _stacked([row.values for row in read], time),
        lengths=lengths,
        hidden=_flags([row.hidden for row in read], lengths, time),
        absent=_flags([row.absent for row in read], lengths, time),
    )


def _regular(rows: list[Any]) -> np.ndarray | None:
    """Rows of one length that hold numbers alone: the usual case, read at once."""
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        return None
    try:
        whole = np.asarray(rows)
    except (ValueError, TypeError):
        return None
    return whole if whole.ndim == 2 and whole.dtype.kind in "fiub" and whole.dtype != object else None


def _row(name: str, number: int, row: Any) -> Column:
    """One row, (time,)."""
    if isinstance(row, str | bytes | Mapping) or row is None or np.isscalar(row):
        got = "None" if row is None else f"a {type(row).__name__}"
        raise InputError(f"row {number} of {name} is {got}, but a row is a list or an array of numbers")
    if isinstance(row, np.ma.MaskedArray):
        return _flat(name, number, Column(_numeric(name, np.asarray(row.data)), hidden=np.ma.getmaskarray(row)))
    if is_torch(row) or is_jax(row):
        return _flat(name, number, Column(_numeric(name, to_numpy(row))))
    try:
        items = row.to_pylist() if hasattr(row, "to_pylist") else list(row)
    except TypeError:
        raise InputError(f"row {number} of {name} is a {type(row).__name__}, but a row is a list of numbers") from None
    if isinstance(row, np.ndarray) and row.dtype != object:
        return _flat(name, number, Column(_numeric(name, to_numpy(row))))
    absent = np.array([item is None for item in items], dtype=bool)
    values = [np.nan if item is None else _one(name, (number, i), item) for i, item in enumerate(items)]
    plain = np.array(values) if values else np.zeros(0)
    return Column(plain, absent=absent if absent.any() else None)


def _one(name: str, where: tuple[int, int], item: Any) -> float | bool:
    if isinstance(item, bool | np.bool_):
        return bool(item)
    try:
        if isinstance(item, str | bytes | complex | np.complexfloating):
            raise TypeError
        return float(item)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        came = shown(item) if isinstance(item, str | bytes | int | complex) else f"a {type(item).__name__}"
        at = f"{name}[{where[0]}, {where[1]}]"
        error = ShapeError if isinstance(item, list | tuple | np.ndarray) else InputError
        raise error(f"{at} is {came}, but a number is needed: rows of numbers, (batch, time)") from None


def _flat(name: str, number: int, row: Column) -> Column:
    if row.values.ndim != 1:
        raise ShapeError(
            f"row {number} of {name} has shape {tuple(row.values.shape)}, but a row is one sequence, (time,): "
            "concatenate batches, or pass one of them"
        )
    return row


def _numeric(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "fiub":
        return array
    kinds = {"c": "complex numbers", "U": "text", "S": "text", "T": "text", "O": "objects", "M": "dates", "m": "times"}
    what = kinds.get(array.dtype.kind, str(array.dtype))
    raise InputError(f"{name} holds {what}, but numbers are needed: convert it first")


def _stacked(rows: list[np.ndarray], time: int) -> np.ndarray:
    dtype = np.result_type(*rows)
    table = np.zeros((len(rows), time), dtype=dtype)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _flags(rows: list[np.ndarray | None], lengths: np.ndarray, time: int) -> np.ndarray | None:
    if all(row is None for row in rows):
        return None
    whole = [np.zeros(n, dtype=bool) if row is None else row for row, n in zip(rows, lengths, strict=True)]
    return _stacked(whole, time)


def _check_lengths(tables: Mapping[str, Column]) -> None:
    (first, table), *others = tables.items()
    lengths = list(_lengths(table))
    for name, other in others:
        found = list(_lengths(other))
        if len(found) != len(lengths):
            raise ShapeError(f"{first} has {len(lengths)} rows and {name} {len(found)}: both need one row a sequence")
        for i, (mine, its) in enumerate(zip(lengths, found, strict=True)):
            if mine != its:
                raise ShapeError(
                    f"row {i} has {mine} tokens in {first} and {its} in {name}: every column of a row has one entry "
                    "for each of its tokens (None where a server gave no number)"
                )


def _lengths(table: Column) -> Iterator[int]:
    rows, width = table.values.shape
    return iter([width] * rows if table.lengths is None else table.lengths.tolist())
