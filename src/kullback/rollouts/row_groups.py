"""Row groups of Parquet by column: the numbers of all tokens as Arrow decoded them, and copied only where need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kullback.rollouts.columns import LISTED, Columns, split
from kullback.rollouts.placing import name_of
from kullback.rollouts.record import FEATURES, Rollout
from kullback.rollouts.schema import COLUMNS, NOTHING, kept, numbers_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

T = TypeVar("T")

PIECE = 1 << 21
"""Tokens decoded at a time: two columns of float32 are 16 MB, held twice, since the next piece is decoded meanwhile.
Pieces of a quarter took 1.5 times as long and no less memory: what Arrow holds to decode a row group is more."""

EMPTY: Mapping[str, object] = {**NOTHING, "sampled_from": "policy"}
"""What stands in a `Rollout` where its file has nothing."""


@dataclass(frozen=True)
class Table:
    """Where columns are in a file of Parquet.

    Attributes:
        path: of the file.
        stored: our names, by those of the file.
        step: of all rows, where no column says it.
        named: whether a prompt without a name is named after its tokens.
    """

    path: Path
    stored: Mapping[str, str]
    step: int | None
    named: bool

    def at(self, names: Sequence[str]) -> dict[str, str]:
        """The columns of the file that are needed for some of ours."""
        wanted = set(names)
        if self.named and "prompt_id" in wanted and "prompt_id" not in self.stored.values():
            wanted.add("prompt_tokens")
        return {at: name for at, name in self.stored.items() if name in wanted}


def columns_of(
    file: pq.ParquetFile, table: Table, names: Sequence[str], rows_of: Callable[[pa.RecordBatch, int], list[Rollout]]
) -> Iterator[Columns]:
    """The rows by column, a piece decoded while the one before is worked on.

    Args:
        file: the file, opened.
        table: where columns are.
        names: the columns that are wanted.
        rows_of: the rows of a batch with all columns, the first of which has a number: says what is wrong with one.
    """
    first = 0
    at = table.at(names)
    lengths = [name for name in table.stored if table.stored[name] in LISTED][:1]
    wanted = list(dict.fromkeys([*at, *lengths]))
    for batch in ahead(_pieces(file, wanted)):
        columns = _by_column(batch, at, table, names, first)
        if columns is None:
            everything = list(table.stored)
            yield from split(rows_of(_whole(file, everything, first, len(batch)), first), first, names)
        else:
            yield columns
        first += len(batch)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Items, the next of which is made in a thread of its own while one is worked on."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item


def _pieces(file: pq.ParquetFile, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows in pieces of about as many tokens: small row groups together, large ones in parts."""
    held: list[int] = []
    size = 0
    for group in range(file.metadata.num_row_groups):
        tokens = _tokens(file, group)
        if held and size + tokens > PIECE:
            yield from _read(file, held, wanted)
            held, size = [], 0
        if 2 * tokens > 3 * PIECE:
            rows = max(1, file.metadata.row_group(group).num_rows * PIECE // tokens)
            yield from file.iter_batches(rows, [group], columns=list(wanted))
        else:
            held.append(group)
            size += tokens
    if held:
        yield from _read(file, held, wanted)


def _tokens(file: pq.ParquetFile, group: int) -> int:
    """Values of the longest column."""
    one = file.metadata.row_group(group)
    return max((one.column(i).num_values for i in range(one.num_columns)), default=0)


def _read(file: pq.ParquetFile, groups: Sequence[int], wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    found = file.read_row_groups(list(groups), columns=list(wanted)).combine_chunks()
    yield from found.to_batches()


def _whole(file: pq.ParquetFile, everything: Sequence[str], first: int, count: int) -> pa.RecordBatch:
    """Some rows with all columns."""
    import pyarrow as pa

    start = 0
    parts = []
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        low, high = max(first, start), min(first + count, start + rows)
        if low < high:
            parts.append(file.read_row_group(group, columns=list(everything)).slice(low - start, high - low))
        start += rows
    return pa.concat_tables(parts).combine_chunks().to_batches()[0]


def _by_column(
    batch: pa.RecordBatch, at: Mapping[str, str], table: Table, names: Sequence[str], first: int
) -> Columns | None:
    """A piece by column; None where its rows are of several kinds, or one is wrong."""
    there = {name: at for at, name in table.stored.items() if name in LISTED and at in batch.schema.names}
    listed = {name: batch.column(at) for name, at in there.items()}
    held = {name: column for name, column in listed.items() if column.null_count < len(column)}
    if not held or any(column.null_count for column in held.values()):
        return None
    lists = {name: COLUMNS[name].cast(column, name) for name, column in held.items()}
    offsets = [numbers_of(column.offsets) for column in lists.values()]
    starts = [found - found[0] for found in offsets]
    numbers = {name: column.flatten() for name, column in lists.items()}
    several = {name: numbers.pop(name) for name in FEATURES if name in numbers}
    if any(column.null_count for column in numbers.values()) or any((one != starts[0]).any() for one in starts[1:]):
        return None
    tokens = {name: numbers_of(column) for name, column in numbers.items() if name in names}
    for name, column in several.items():
        if name in names:
            tokens[name] = COLUMNS[name].numbers(column, name)
    return Columns(
        first=first,
        offsets=starts[0].astype(np.int64),
        tokens=tokens,
        rows=_rows(batch, at, table, names),
    )


def _rows(batch: pa.RecordBatch, at: Mapping[str, str], table: Table, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """What each row has one of."""
    found: dict[str, Sequence[Any]] = {}
    for there, name in at.items():
        column = batch.column(there)
        if name in LISTED or name not in names or column.null_count == len(column):
            continue
        values = COLUMNS[name].cast(column, name).to_pylist()
        found[name] = [EMPTY.get(name) if value is None else kept(name, value) for value in values]
    if table.step is not None and "step" in names and "step" not in found:
        found["step"] = [table.step] * len(batch)
    if table.named and "prompt_id" in names and "prompt_id" not in found:
        found |= _prompts(batch, at)
    return found


def _prompts(batch: pa.RecordBatch, at: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    for there, name in at.items():
        if name == "prompt_tokens":
            rows = COLUMNS[name].values(batch.column(there), there)
            known = (None if row is None or not len(row) else row.astype("<i8") for row in rows)
            return {"prompt_id": [None if row is None else name_of(row.tobytes()) for row in known]}
    return {}
