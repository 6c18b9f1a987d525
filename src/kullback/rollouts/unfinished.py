"""Reads the part that a job writes until its end, or that a killed one left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.errors import FileError, InputError
from kullback.rollouts.columns import Columns, split
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.parquet import KEY, rows_of
from kullback.rollouts.part import pyarrow, read_stream
from kullback.rollouts.record import Rollout
from kullback.rollouts.schema import COLUMNS, check_columns

if TYPE_CHECKING:
    import pyarrow as pa


ROWS = 1024
"""Brought together by column."""


class PartSource:
    """The batches of a part that were written whole, as of when it was opened.

    Raises:
        FileError: no such file, no part, or with no batch in it.
    """

    format = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batches = 0
        self._rows = 0
        schema: pa.Schema | None = None
        for batch in self._stream():
            schema = batch.schema
            self._batches += 1
            self._rows += len(batch)
        if schema is None or not self._rows:
            raise FileError(f"{path} holds no rollout: the job that wrote it finished no batch")
        self._stored = {name: name for name in COLUMNS if name in schema.names}
        check_columns(path, schema, self._stored)
        try:
            # A key is of the stream's schema, which every batch shares.
            keys = schema.metadata or {}
            self.metadata = Metadata.from_json(keys[KEY]) if KEY in keys else Metadata()
        except InputError as error:
            raise FileError(f"{path} cannot be read as rollouts: {error}") from error

    def _stream(self) -> Iterator[pa.RecordBatch]:
        pyarrow()
        try:
            with self.path.open("rb") as file:
                yield from read_stream(file)
        except FileError as error:
            raise FileError(f"{self.path} cannot be read as rollouts: {error}") from error
        except OSError as error:
            raise FileError(f"{self.path} cannot be read as rollouts: {error.strerror}, check the path") from error

    def __len__(self) -> int:
        return self._rows

    def columns(self) -> tuple[str, ...]:
        """The columns that hold something."""
        held: set[str] = set()
        for batch in self._stream():
            held |= {name for name in self._stored if batch.column(name).null_count < len(batch)}
        return tuple(name for name in self._stored if name in held)

    def batches(self, names: Sequence[str]) -> Iterator[Columns]:
        """The rows by column, a block for each batch."""
        first = 0
        for block in self.blocks(ROWS):
            yield from split(block, first, names)
            first += len(block)

    def blocks(self, rows: int, start: int = 0) -> Iterator[list[Rollout]]:
        """The rows from number `start` on, at most `rows` at a time."""
        first = 0
        for number, batch in enumerate(self._stream()):
            if number == self._batches:  # written since
                return
            for at in range(max(0, start - first), len(batch), rows):
                yield rows_of(self.path, batch.slice(at, rows), self._stored, first + at)
            first += len(batch)
