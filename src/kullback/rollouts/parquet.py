"""Rollouts in Parquet: a row group a batch, written as it is finished and read without loading all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.errors import FileError, InputError, MissingPackageError
from kullback.estimation.sequences import TOKEN_COLUMNS
from kullback.rollouts.metadata import Metadata, TokenHash
from kullback.rollouts.record import Rollout
from kullback.rollouts.schema import COLUMNS, check_columns, is_old, old_metadata, table_schema
from kullback.rollouts.table import Rollouts

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

KEY = b"kullback"
"""The key of the metadata among the key-value metadata of a Parquet file."""


class RolloutWriter:
    """Writes rollouts to a Parquet file batch by batch; a batch that was written stays.

    The file has its name from the start of `close`; until then it is NAME.part.
    Use as a context manager: whatever ends the block, the finished batches are kept.

    Args:
        path: of the file.
        metadata: what the file says about itself; the token hash is filled in.

    Raises:
        FileError: the file cannot be written.
        InputError: a rollout that does not fit the columns.
        MissingPackageError: pyarrow is not installed.
    """

    def __init__(self, path: str | Path, metadata: Metadata | None = None) -> None:
        self.path = Path(path)
        self.metadata = metadata or Metadata()
        self._part = self.path.with_name(self.path.name + ".part")
        self._writer: pq.ParquetWriter | None = None
        self._hash = TokenHash()

    def write(self, rollouts: Sequence[Rollout]) -> None:
        """Append rows, as one row group."""
        _, pq = _pyarrow()
        table = _table(rollouts)
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._part,
                    table.schema,
                    compression="zstd",
                    use_dictionary=False,
                    use_byte_stream_split=[f"{name}.list.element" for name in TOKEN_COLUMNS],
                )
            self._writer.write_table(table)
        except OSError as error:
            raise FileError(f"{self.path} cannot be written ({error.strerror or error})") from error
        for rollout in rollouts:
            self._hash.update(rollout)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is None:
            return
        metadata = replace(self.metadata, token_hash=self._hash.hexdigest())
        writer, self._writer = self._writer, None
        try:
            writer.add_key_value_metadata({KEY: metadata.to_json()})
            writer.close()
            os.replace(self._part, self.path)
        except OSError as error:
            raise FileError(f"{self.path} cannot be written ({error.strerror or error})") from error

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_rollouts(path: str | Path, rollouts: Sequence[Rollout], metadata: Metadata | None = None) -> None:
    """Write a Parquet file of rollouts.

    Args:
        path: of the file.
        rollouts: at least one; those of `read_rollouts` are written block by block.
        metadata: what the file says about itself; None for that of the rollouts, if they were read from a file.

    Raises:
        FileError: the file cannot be written.
        InputError: no rollout, or one that does not fit the columns.
    """
    if not len(rollouts):
        raise InputError(f"no rollout came for {path}, but a table holds at least one")
    read = rollouts if isinstance(rollouts, Rollouts) else None
    with RolloutWriter(path, metadata or (read and read.metadata)) as writer:
        for block in [rollouts] if read is None else read.blocks():
            writer.write(block)


def _table(rollouts: Sequence[Rollout]) -> pa.Table:
    pa, _ = _pyarrow()
    schema = table_schema()
    arrays = []
    for field in schema:
        dtype = np.float32 if field.name in TOKEN_COLUMNS else bool if field.name == "mask" else None
        values = [getattr(rollout, field.name) for rollout in rollouts]
        if field.name == "finish":
            values = [None if value == "unknown" else value for value in values]
        if dtype is not None:
            values = [None if value is None else np.asarray(value, dtype=dtype) for value in values]
        try:
            arrays.append(pa.array(values, type=field.type))
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"the column {field.name} holds what is no {COLUMNS[field.name].words} ({error}): convert it first"
            ) from error
    return pa.Table.from_arrays(arrays, schema=schema)


class ParquetSource:
    """A Parquet file of rollouts, of this schema or the one before it.

    Raises:
        FileError: no such file, not Parquet or not finished, without the columns of rollouts, or with none in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            self._groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            keys: dict[bytes, bytes] = file.metadata.metadata or {}
            schema = file.schema_arrow
            self._old = KEY not in keys and is_old(schema)
            self._stored = {("prompt" if self._old and n == "prompt_tokens" else n): n for n in COLUMNS}
            self._stored = {stored: name for stored, name in self._stored.items() if stored in schema.names}
        check_columns(path, schema, self._stored)
        if not sum(self._groups):
            raise FileError(f"{path} holds no rollout: the job that wrote it finished no sequence")
        self._keys = keys

    @cached_property
    def metadata(self) -> Metadata:
        """What the file says about itself, or what the rows of an old one say."""
        try:
            if KEY in self._keys:
                return Metadata.from_json(self._keys[KEY])
        except InputError as error:
            raise FileError(f"{self.path} cannot be read as rollouts: {error}") from error
        if not self._old:
            return Metadata()
        with self._opened() as file:
            return old_metadata(file)

    def __len__(self) -> int:
        return sum(self._groups)

    def columns(self) -> tuple[str, ...]:
        """The columns that hold something; of each, as much is read as is needed to tell."""
        with self._opened() as file:
            return tuple(name for stored, name in self._stored.items() if _holds_something(file, stored))

    def blocks(self, rows: int, start: int = 0) -> Iterator[list[Rollout]]:
        """The rows from number `start` on, at most `rows` at a time."""
        ends = list(accumulate(self._groups))
        group = next((number for number, end in enumerate(ends) if end > start), len(ends))
        first = ends[group - 1] if group else 0
        with self._opened() as file:
            batches = file.iter_batches(rows, range(group, len(ends)), columns=list(self._stored))
            for batch in self._batches(batches):
                skipped = max(0, start - first)
                if skipped < len(batch):
                    yield self._rows(batch.slice(skipped), first + skipped)
                first += len(batch)

    def _batches(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pa, _ = _pyarrow()
        try:
            yield from batches
        except (OSError, pa.ArrowException) as error:
            raise FileError(f"{self.path} is damaged ({error}): write it again") from error

    def _rows(self, batch: pa.RecordBatch, first: int) -> list[Rollout]:
        """The rows of a batch, the first of which has the number `first` in the file."""
        values = {}
        for stored, name in self._stored.items():
            try:
                values[name] = COLUMNS[name].values(batch.column(stored))
            except InputError as error:
                raise FileError(f"{self.path}, rows {first} to {first + len(batch) - 1}: {stored} {error}") from error
        rollouts = []
        for number in range(len(batch)):
            row = {name: column[number] for name, column in values.items() if column[number] is not None}
            try:
                rollouts.append(Rollout(**row))
            except InputError as error:
                raise FileError(f"{self.path}, row {first + number}: {error}") from error
        return rollouts

    def _opened(self) -> pq.ParquetFile:
        pa, pq = _pyarrow()
        part = self.path.with_name(self.path.name + ".part")
        try:
            return pq.ParquetFile(self.path)
        except FileNotFoundError as error:
            why = (
                f"only {part.name} is there, which a job writes until it ends"
                if part.exists()
                else "there is no such file: check the path"
            )
            raise FileError(f"{self.path} cannot be read as rollouts: {why}") from error
        except OSError as error:
            raise FileError(f"{self.path} cannot be read as rollouts ({error}): check the path") from error
        except pa.ArrowException as error:
            raise FileError(
                f"{self.path} cannot be read as rollouts: it is not Parquet, or was not written to its end"
            ) from error


def _holds_something(file: pq.ParquetFile, column: str) -> bool:
    batches = file.iter_batches(1024, columns=[column])
    return any(batch.column(0).null_count < len(batch) for batch in batches)


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "hf") from None
    return pa, pq
