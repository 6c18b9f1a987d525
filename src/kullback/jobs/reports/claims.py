"""What a file of numbers says of itself: how it was made, on which files it rests, and what was written beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kullback.documents import Record
from kullback.errors import FileError, shown

SCHEMA = 1
"""The version of the field ``report``."""

LARGEST = 1 << 30
"""Bytes of a file of numbers: what is more was written by nobody."""


@dataclass(frozen=True)
class Made:
    """How a report came about.

    Attributes:
        kind: the command, as "compare" or "lab gaussian".
        command: the whole line, to be typed again.
        asked: what it was asked for, by which it can be computed again.
        rests_on: the files behind the numbers.
    """

    kind: str
    command: str = ""
    asked: Mapping[str, object] = field(default_factory=dict)
    rests_on: Sequence[Path] = ()


def claimed(made: Made, folder: Path, beside: Mapping[str, str]) -> Record:
    """The field ``report`` of a file of numbers.

    Args:
        made: how they came about.
        folder: in which the file stands; other files are named from there.
        beside: digests of what was written with it, by name.
    """
    from kullback import __version__

    return {
        "schema": SCHEMA,
        "made_by": f"kullback {__version__}",
        "kind": made.kind,
        "command": made.command,
        "asked": dict(made.asked),
        "rests_on": [
            {"path": from_folder(path, folder), "sha256": digest(path), "bytes": path.stat().st_size}
            for path in made.rests_on
            if path.is_file()
        ],
        "beside": dict(beside),
    }


def from_folder(path: Path, folder: Path) -> str:
    """A path as it is called from a folder, so that both can be moved together."""
    try:
        return os.path.relpath(path.absolute(), folder.absolute())
    except ValueError:  # another drive
        return str(path.absolute())


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error})") from error


def read_report(path: Path) -> Record:
    """A file of numbers that says how it was made.

    Raises:
        FileError: it is none, or of a version that is not known here.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise FileError(f"{path} has more than {LARGEST:,} bytes, and no report is so large: name FILE.json")
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error}): name the report's FILE.json") from error
    except (ValueError, RecursionError):
        raise FileError(
            f"{path} is no JSON: name the FILE.json that stands beside the page, as in kullback verify report.json"
        ) from None
    report = record.get("report") if isinstance(record, dict) else None
    if not isinstance(report, dict) or not isinstance(report.get("kind"), str):
        raise FileError(
            f"{path} does not say how it was made: a report's FILE.json is needed, as --report report.html writes it"
        )
    if report.get("schema") != SCHEMA:
        raise FileError(
            f"{path} is a report of version {shown(report.get('schema'))}, and this kullback knows version {SCHEMA}: "
            "use the version that wrote it"
        )
    found: Record = record
    return found
