"""A table of Arrow's as records: Parquet, and the stream or file that `datasets` keeps; a row a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import FileError, UnfinishedError
from kullback.rollouts.parquet import is_cut
from kullback.rollouts.part import pyarrow, read_stream, reason
from kullback.rollouts.readers.containers.found import Found

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 256
"""Made into records at a time."""

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


def records(path: Path) -> Iterator[Found]:
    """The rows, by the names of the columns.

    Raises:
        FileError: the file cannot be read, is damaged or not written to its end.
    """
    number = 0
    for batch in batches(path, ROWS):
        for row in batch.to_pylist():
            yield f"row {number}", row
            number += 1


def batches(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a table, some at a time."""
    with sayable(path), path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        if head.startswith(PARQUET):
            yield from pyarrow().parquet.ParquetFile(file).iter_batches(rows)
        elif head == ARROW_FILE:
            reader = pyarrow().ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield from _pieces(reader.get_batch(number), rows)
        else:
            for batch in read_stream(file):
                yield from _pieces(batch, rows)


def _pieces(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(batch), rows):
        yield batch.slice(start, rows)


@contextmanager
def sayable(path: Path) -> Iterator[None]:
    """What goes wrong in reading a table, said in a sentence."""
    pa: Any = pyarrow()
    try:
        yield
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{path} cannot be read as rollouts: there is no such file, check the path") from error
    except pa.ArrowException as error:
        if is_cut(path):
            raise UnfinishedError(
                f"{path} cannot be read as rollouts: it is not Parquet, or was not written to its end"
            ) from error
        raise FileError(f"{path} is damaged ({' '.join(str(error).split())}): write it again") from error
    except OSError as error:
        raise FileError(f"{path} is damaged ({reason(error)}): write it again") from error
    except (UnicodeDecodeError, OverflowError, ValueError) as error:
        raise FileError(f"{path} holds values that Python has none for ({error}): convert them first") from error
