"""Rollouts in Parquet: a row group a batch, written as it is finished and read without loading all."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.errors import FileError, InputError, UnfinishedError
from kullback.estimation.sequences import TOKEN_COLUMNS
from kullback.paths import path_of
from kullback.rollouts.columns import Columns
from kullback.rollouts.metadata import SCHEMA, Metadata, TokenHash
from kullback.rollouts.old import OLD_NAMES, is_old, old_metadata
from kullback.rollouts.part import ENDING, Part, pyarrow, reason
from kullback.rollouts.placing import placed
from kullback.rollouts.record import FEATURES, LOGPROB_COLUMNS, Rollout
from kullback.rollouts.row_groups import Table, columns_of
from kullback.rollouts.schema import COLUMNS, check_columns, kept, several, stored, table_schema
from kullback.rollouts.table import Rollouts

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kullback.rollouts.readers.format import Format

KEY = b"kullback"
"""The key of the metadata among the key-value metadata of a Parquet file."""


class RolloutWriter:
    """Writes rollouts to a Parquet file batch by batch; a batch that was written stays.

    Until `close` what was written is in NAME.part, which `read_rollouts` reads too, also after a kill; the file has
    its name only once it is whole. Use as a context manager: whatever ends the block, the finished batches are kept.

    Args:
        path: of the file.
        metadata: what the file says about itself; the token hash is filled in.

    Raises:
        FileError: the file cannot be written.
        InputError: a rollout that does not fit the columns.
        MissingPackageError: pyarrow is not installed.
    """

    def __init__(self, path: str | Path, metadata: Metadata | None = None) -> None:
        self.path = path_of(path, "a file to write")
        self.metadata = metadata or Metadata()
        self._part: Part | None = None
        self._names = False
        self._full = False
        self._hash = TokenHash()

    def write(self, rollouts: Sequence[Rollout]) -> None:
        """Append rows, as one row group."""
        if not rollouts:
            return
        names = self._names or any(isinstance(rollout.prompt_id, str) for rollout in rollouts)
        table = _table(rollouts, names)
        said = table.schema.with_metadata({KEY: self.metadata.to_json()})
        part = self._part
        if part is None:
            part = Part(self.path.with_name(self.path.name + ENDING), said)
        elif names and not self._names:  # those before had numbers, or nothing
            part = self._part = part.recast(said)
        try:
            part.write(table)
        except FileError:
            self._full = True
            raise
        self._part, self._names = part, names  # only now: of a first batch that finds no room nothing is left
        for rollout in rollouts:
            self._hash.update(rollout)

    def close(self) -> None:
        """Make the file of what was written, and give it its name; the part stays where that fails."""
        if self._part is None:
            return
        part, self._part = self._part, None
        whole = self.path.with_name(self.path.name + ".whole")
        try:
            # A folder that was removed under way is made again.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._copy(part, whole)
            os.replace(whole, self.path)
        except OSError as error:
            with suppress(OSError):
                whole.unlink()
            raise FileError(
                f"{self.path} cannot be written ({reason(error)}): kullback.read_rollouts({str(part.path)!r}) reads "
                "what was finished"
            ) from error
        finally:
            part.close()
        part.remove()

    def _copy(self, part: Part, path: Path) -> None:
        pa = pyarrow()
        metadata = replace(self.metadata, token_hash=self._hash.hexdigest(), schema=SCHEMA)
        with pa.parquet.ParquetWriter(
            path,
            table_schema(names=self._names),
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=[
                *(f"{name}.list.element" for name in TOKEN_COLUMNS),
                *(f"{name}.list.element.list.element" for name in FEATURES),
            ],
        ) as writer:
            for batch in part.batches():
                writer.write_table(pa.Table.from_batches([batch.replace_schema_metadata(None)]))
            writer.add_key_value_metadata({KEY: metadata.to_json()})

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._full and self._part is not None:
            # The error says where to read what was finished; of the part a file might be made that is smaller and fits.
            self._part.close()
            return
        # What ended the block is what the user has to know; the part stays where the file cannot be made of it.
        with nullcontext() if error is None else suppress(FileError):
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

    Example:
        >>> import tempfile
        >>> from kullback.rollouts import Rollout, read_rollouts
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_rollouts(f"{folder}/rollouts.parquet", [Rollout(logprobs=[-0.5], ref_logprobs=[-0.75])])
        ...     [row] = read_rollouts(f"{folder}/rollouts.parquet")
        >>> row.logprobs, row.ref_logprobs
        (array([-0.5], dtype=float32), array([-0.75], dtype=float32))
    """
    if not len(rollouts):
        raise InputError(f"no rollout came for {path}, but a table holds at least one")
    if isinstance(rollouts, Rollouts):
        writer = RolloutWriter(path, metadata or rollouts.metadata)
        for block in rollouts.blocks():
            writer.write(block)
    else:
        writer = RolloutWriter(path, metadata)
        writer.write(rollouts)
    writer.close()


def _table(rollouts: Sequence[Rollout], names: bool) -> pa.Table:
    pa = pyarrow()
    schema = table_schema(names=names)
    arrays = []
    for field in schema:
        dtype = np.float32 if field.name in TOKEN_COLUMNS else bool if field.name == "mask" else None
        values = [stored(rollout, field.name) for rollout in rollouts]
        if field.name in FEATURES:
            arrays.append(several(values))
            continue
        if dtype is not None:
            values = [None if value is None else np.asarray(value, dtype=dtype) for value in values]
        if field.name == "prompt_id" and names:
            values = [None if value is None else str(value) for value in values]
        try:
            arrays.append(pa.array(values, type=field.type))
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"the column {field.name} holds what is no {COLUMNS[field.name].words} ({error}): convert it first"
            ) from error
    return pa.Table.from_arrays(arrays, schema=schema)


def is_ours(path: Path) -> bool:
    """Whether a file is Parquet and a table of rollouts; also one that is cut, so that its reader can say so."""
    names = names_of(path)
    if names is None:
        return False
    pair = [name for name in LOGPROB_COLUMNS if name in names]
    return not names or KEY.decode() in names or len(pair) > 1 or {"prompt", "policy_logprobs"} <= set(names)


def names_of(path: Path) -> list[str] | None:
    """The columns of a Parquet file, and the key of what it says of itself; none of a cut one, None of no Parquet."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                return None
        with _open(path) as file:
            return [*file.schema_arrow.names, *([KEY.decode()] if KEY in (file.metadata.metadata or {}) else [])]
    except FileError:
        return []
    except OSError as error:
        part = path.with_name(path.name + ENDING)
        if isinstance(error, FileNotFoundError) and part.exists():
            return []
        return None


class ParquetSource:
    """A Parquet file of rollouts, of this schema or one before it, or of somebody else's columns.

    Args:
        path: of the file.
        names: for a file of somebody else: its columns, by our names.
        format: the format that says what they are.
        step: the training step of all rows, where no column says it.

    Raises:
        FileError: no such file, not Parquet or not finished, without the columns of rollouts, or with none in it.
    """

    counted = True

    def __init__(
        self, path: Path, names: Mapping[str, str] | None = None, format: Format | None = None, step: int | None = None
    ) -> None:
        self.path, self._foreign, self._step = path, names is not None, step
        self.format = format
        with self._opened() as file:
            self._groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            schema = file.schema_arrow
            self._stored = _stored(file, names)
            check_columns(path, schema, self._stored)
            if not sum(self._groups):
                raise FileError(f"{path} holds no rollout: the job that wrote it finished no sequence")
            self.metadata = self._metadata(file)

    def _metadata(self, file: pq.ParquetFile) -> Metadata:
        """What the file says about itself, or what the rows of an old one say."""
        keys: dict[bytes, bytes] = file.metadata.metadata or {}
        try:
            if KEY in keys:
                return Metadata.from_json(keys[KEY])
        except InputError as error:
            raise FileError(f"{self.path} cannot be read as rollouts: {error}") from error
        return old_metadata(file) if is_old(file.schema_arrow) else Metadata()

    def __len__(self) -> int:
        return sum(self._groups)

    def columns(self) -> tuple[str, ...]:
        """The columns that hold something; of each, as much is read as is needed to tell."""
        with self._opened() as file:
            held = {name for stored, name in self._stored.items() if _holds_something(file, stored)}
        if self._foreign:
            held |= {"prompt_id"} if "prompt_tokens" in held else set()
            held |= {"step"} if self._step is not None else set()
        return tuple(name for name in COLUMNS if name in held)

    def blocks(self, rows: int, start: int = 0) -> Iterator[list[Rollout]]:
        """The rows from number `start` on, at most `rows` at a time."""
        ends = list(accumulate(self._groups))
        group = bisect_right(ends, start)
        first = ends[group - 1] if group else 0
        with self._opened() as file:
            for batch in file.iter_batches(rows, range(group, len(ends)), columns=list(self._stored)):
                skipped = max(0, start - first)
                if skipped < len(batch):
                    yield self._rows(batch.slice(skipped), first + skipped)
                first += len(batch)

    def values(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """What a row holds in some columns, None where it has nothing."""
        stored = {at: name for at, name in self._stored.items() if name in names}
        ends = list(accumulate(self._groups))
        group = bisect_right(ends, row)
        first = ends[group - 1] if group else 0
        found: dict[str, Any] = dict.fromkeys(names)
        with self._opened() as file:
            for batch in file.iter_batches(256, [group], columns=list(stored)):
                if row < first + len(batch):
                    one = batch.slice(row - first, 1)
                    held = {name: COLUMNS[name].values(one.column(at), at)[0] for at, name in stored.items()}
                    return found | {name: kept(name, value) for name, value in held.items()}
                first += len(batch)
        return found

    def batches(self, names: Sequence[str]) -> Iterator[Columns]:
        """The rows by column, a block for each row group; numbers are the file's own memory where they can be."""
        table = Table(self.path, self._stored, self._step, self._foreign)
        with self._opened() as file:
            yield from columns_of(file, table, names, self._rows)

    def _rows(self, batch: pa.RecordBatch, first: int) -> list[Rollout]:
        found = rows_of(self.path, batch, self._stored, first)
        return [placed(rollout, self._step) for rollout in found] if self._foreign else found

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """The file, with what goes wrong in reading it said in a sentence."""
        pa = pyarrow()
        with _open(self.path) as file:
            try:
                yield file
            except FileError:
                raise
            except (OSError, pa.ArrowException) as error:
                raise FileError(f"{self.path} is damaged ({reason(error)}): write it again") from error


def _stored(file: pq.ParquetFile, names: Mapping[str, str] | None) -> dict[str, str]:
    """Our names of a file's columns, in our order."""
    if names is not None:
        return {names[name]: name for name in COLUMNS if name in names}
    schema = file.schema_arrow
    at = {name: name for name in schema.names} | dict(OLD_NAMES if is_old(schema) else {})
    ours = KEY in (file.metadata.metadata or {})
    return {at[name]: name for name, column in COLUMNS.items() if name in at and (ours or not column.ours)}


def rows_of(path: Path, batch: pa.RecordBatch, stored: Mapping[str, str], first: int) -> list[Rollout]:
    """The rows of a batch, the first of which has the number `first` in the file; `stored` names columns by theirs."""
    try:
        columns = [COLUMNS[name].values(batch.column(at), at) for at, name in stored.items()]
        rows = (zip(stored.values(), row, strict=True) for row in zip(*columns, strict=True))
        return [Rollout(**{name: kept(name, value) for name, value in row if value is not None}) for row in rows]
    except InputError as error:
        if len(batch) > 1:  # look for the row; a slice would still hold the others' tokens, and cast them
            return [rows_of(path, batch.take([number]), stored, first + number)[0] for number in range(len(batch))]
        raise FileError(f"{path}, row {first}: {error}") from error


READ_PART = "and it can be read by that name"


def _open(path: Path) -> pq.ParquetFile:
    pa = pyarrow()
    part = path.with_name(path.name + ENDING)
    try:
        return pa.parquet.ParquetFile(path)
    except FileNotFoundError:
        missing = "there is no such file, check the path"
        why = (
            f"only {part.name} is there, of a job that has not come to its end, {READ_PART}"
            if part.exists()
            else missing
        )
    except OSError as error:  # without a number where Thrift finds bytes that are no Parquet
        why = f"{reason(error)}, check the path" if error.errno else f"it is damaged ({reason(error)}), write it again"
    except (pa.ArrowException, UnicodeDecodeError):
        why = "it is not Parquet, or was not written to its end"
    raise (UnfinishedError if is_cut(path) else FileError)(f"{path} cannot be read as rollouts: {why}")


def is_cut(path: Path) -> bool:
    """Whether a file has Parquet's beginning and not its end."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-4, 2)
            return head == b"PAR1" and file.read(4) != b"PAR1"
    except OSError:
        return False


def _holds_something(file: pq.ParquetFile, column: str) -> bool:
    batches = file.iter_batches(1024, columns=[column])
    return any(batch.column(0).null_count < len(batch) for batch in batches)
