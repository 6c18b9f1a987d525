"""A record a line: JSON Lines, read line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from kullback.errors import FileError
from kullback.rollouts.readers.containers.found import Broken, Found, as_record
from kullback.rollouts.readers.containers.opening import MAX_LINE, opened
from kullback.rollouts.readers.containers.parsing import parsed

LAST = 4096
"""Bytes before a cursor that are looked at again."""


@dataclass
class Cursor:
    """Where reading stopped in a file that grows.

    Attributes:
        offset: bytes before it, decompressed.
        line: lines before it.
        last, checksum: of the last of these bytes, by which a file that was written anew is told.
    """

    offset: int = 0
    line: int = 0
    last: int = 0
    checksum: int = 0

    def pass_over(self, line: bytes) -> None:
        """Move on behind a line whose record was taken."""
        self.offset += len(line)
        self.line += 1
        self.last, self.checksum = min(len(line), LAST), crc32(line[-LAST:])

    def stands(self, path: Path) -> bool:
        """Whether what lies before it in a file is still what was read."""
        with opened(path) as file:
            file.seek(self.offset - self.last)
            return crc32(file.read(self.last)) == self.checksum


def records(path: Path, cursor: Cursor | None = None) -> Iterator[Found]:
    """The records of the lines; empty lines are passed over.

    Args:
        path: of the file.
        cursor: where to begin; moved on behind every line whose record was taken.

    Raises:
        FileError: the file cannot be read, or a line is too long.
    """
    with opened(path) as file:
        number = 0
        if cursor is not None:
            file.seek(cursor.offset)
            number = cursor.line
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise FileError(
                    f"{path}, line {number} is longer than {MAX_LINE >> 20} MiB: give every record a line of its own"
                )
            record = _record(line) if line.strip() else None
            if record is not None:
                yield f"line {number}", record
            if cursor is not None and not (isinstance(record, Broken) and record.unfinished):
                cursor.pass_over(line)


def _record(line: bytes) -> Mapping[str, Any] | Broken:
    try:
        return as_record(parsed(line))
    except ValueError as error:
        if not line.endswith(b"\n"):
            return Broken("the last line is not whole: it is still being written, or its writer was stopped", True)
        return Broken(str(error))
