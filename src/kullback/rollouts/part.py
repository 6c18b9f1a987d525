"""The part: what is finished of a file of rollouts, readable after every batch, whatever ends the job."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import FileError, MissingPackageError

if TYPE_CHECKING:
    import pyarrow as pa

ENDING = ".part"


class Part:
    """A stream of Arrow's (IPC), which needs no footer: every batch that was appended whole can be read back.

    Parquet keeps its footer at the end, without which nothing of a file can be read: a job that was killed would have
    lost all. The stream is kept open, so that it is read back even where its folder was removed.

    Args:
        path: of the part.
        schema: of the batches, with what the file says about itself in its metadata.

    Raises:
        FileError: the file cannot be made or written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._goal = str(path).removesuffix(ENDING)
        self._sink = io.BytesIO()
        ipc = pyarrow().ipc
        self._writer = ipc.new_stream(self._sink, schema, options=ipc.IpcWriteOptions(compression="zstd"))
        self._length = self._batches = 0
        try:
            self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 (open until the job ends)
        except OSError as error:
            raise FileError(f"{self._goal} cannot be written ({reason(error)})") from error
        self._append()

    def write(self, table: pa.Table) -> None:
        """Append a batch; one that finds no room leaves the stream as it was, and no file where it was the first."""
        self._writer.write_table(table.combine_chunks())
        self._append()
        self._batches += 1

    def _append(self) -> None:
        piece = memoryview(self._sink.getvalue())
        self._sink.seek(0)
        self._sink.truncate()
        try:
            written = 0
            while written < len(piece):
                written += self._file.write(piece[written:]) or 0
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._length)
                self._file.seek(self._length)
            raise FileError(f"{self._goal} cannot be written ({reason(error)}): {self._held()}") from error
        self._length += len(piece)

    def _held(self) -> str:
        """What there is to be read of it; a file without rows is removed."""
        if self._batches:
            return f"what was written before can be read with kullback.read_rollouts({str(self.path)!r})"
        self.close()
        self.remove()
        return "there was no room for the first rows, and no file is left"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """What was appended, one batch after another."""
        self._file.seek(0)
        yield from read_stream(self._file)

    def recast(self, schema: pa.Schema) -> Part:
        """A part in the place of this one, with the same batches in another schema.

        Raises:
            FileError: it cannot be written; this one is then as it was.
        """
        import pyarrow as pa

        other = Part(self.path.with_name(self.path.name + ".recast"), schema)
        for batch in self.batches():
            other.write(pa.Table.from_batches([batch]).cast(schema))
        os.replace(other.path, self.path)
        other.path, other._goal = self.path, self._goal
        self.close()
        return other

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink()


def read_stream(file: Any) -> Iterator[pa.RecordBatch]:
    """The batches of a stream that are whole; one that was torn, as by a kill, ends it.

    Raises:
        FileError: not a stream of Arrow's.
    """
    pa = pyarrow()
    try:
        reader = pa.ipc.open_stream(file)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise FileError(f"it is not Arrow's stream format ({error})") from error
    while True:
        try:
            batch = reader.read_next_batch()
        except (StopIteration, pa.ArrowException, OSError):
            return
        yield batch


def schema_of(path: Path) -> pa.Schema | None:
    """The schema of a part, or None for a file that is none."""
    pa = pyarrow()
    try:
        with path.open("rb") as file:
            return pa.ipc.open_stream(file).schema
    except (OSError, EOFError, pa.ArrowException):
        return None


def reason(error: OSError) -> str:
    """What the system says, in a line; Arrow puts the path and its own words into strerror."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def pyarrow() -> Any:
    """The package, or a sentence that says how to get it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise MissingPackageError("pyarrow", "hf") from None
    return pyarrow
