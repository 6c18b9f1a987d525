"""A file of bytes that is none of the other containers: its format opens it itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kullback.rollouts.readers.containers.found import Found
from kullback.rollouts.readers.containers.opening import opened

HEAD = 64
"""Bytes that a format recognises its files by."""


def records(path: Path) -> Iterator[Found]:
    """One record, {"head": the first 64 bytes, "path": where the file is}.

    Raises:
        FileError: the file cannot be read.
    """
    with opened(path) as file:
        head = file.read(HEAD)
    yield "", {"head": head, "path": path}
