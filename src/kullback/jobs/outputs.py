"""The folder a job writes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kullback.documents import Record
from kullback.errors import FileError


def prepare_output(
    output: str | Path, *, overwrite: bool, names: Sequence[str] = ("rollouts.parquet", "estimate.json")
) -> Path:
    """The folder, made and tried before any work is done.

    Raises:
        FileError: it cannot be written to, or holds results already.
    """
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder that is there may be read-only, and after an hour of sampling is too late to learn it.
        probe = folder / ".kullback-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written to ({error.strerror or error}): choose another --output"
        ) from error
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise FileError(f"{folder} already holds {' and '.join(there)}: choose another --output or pass --overwrite")
    return folder


def write_json(path: Path, record: Record) -> None:
    """Write a record as JSON."""
    try:
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} cannot be written ({error.strerror or error})") from error
