"""A record a line: JSON Lines, read line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.errors import FileError
from kullback.rollouts.readers.containers.found import Broken, Found, as_record
from kullback.rollouts.readers.containers.opening import MAX_LINE, opened
from kullback.rollouts.readers.containers.parsing import parsed


def records(path: Path) -> Iterator[Found]:
    """The records of the lines; empty lines are passed over.

    Raises:
        FileError: the file cannot be read, or a line is too long.
    """
    with opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise FileError(
                    f"{path}, line {number} is longer than {MAX_LINE >> 20} MiB: give every record a line of its own"
                )
            if line.strip():
                yield f"line {number}", _record(line)


def _record(line: bytes) -> Mapping[str, Any] | Broken:
    try:
        return as_record(parsed(line))
    except ValueError as error:
        if not line.endswith(b"\n"):
            return Broken("the last line is not whole: it is still being written, or its writer was stopped", True)
        return Broken(str(error))
