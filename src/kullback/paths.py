"""Names of files and folders, looked at before the operating system is asked."""

from __future__ import annotations

import os
from pathlib import Path

from kullback.errors import FileError, shown

__all__ = ["path_of"]

LONGEST_PART, LONGEST = 255, 4096
"""Bytes of a name and of a whole path that Linux takes; others take as many or fewer."""


def path_of(name: str | os.PathLike[str], what: str, *, hint: str = "") -> Path:
    """The path that a name stands for, if a file can have it.

    Args:
        name: as it came.
        what: what it should name, as "a file of prompts".
        hint: what else may have been meant.

    Raises:
        FileError: nothing, no name at all, or one that no file can have.

    Example:
        >>> path_of("runs/a.parquet", "a file of rollouts").name
        'a.parquet'
        >>> path_of(" ", "a file of rollouts")
        Traceback (most recent call last):
            ...
        kullback.errors.FileError: ' ' is no name of a file of rollouts: it is empty
    """
    try:
        text = os.fsdecode(name)
    except TypeError:
        raise FileError(f"{shown(name)} is no name of {what}: give a path{hint}") from None
    if why := _impossible(text):
        raise FileError(f"{shown(text)} is no name of {what}: {why}{hint}")
    return Path(text)


def _impossible(text: str) -> str:
    if not text.strip():
        return "it is empty"
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        return "it has half a character, which no file system takes"
    if b"\0" in raw:
        return "it has a character 0, which no file system takes"
    if len(raw) > LONGEST or max(map(len, raw.split(os.sep.encode()))) > LONGEST_PART:
        return f"it is {len(text):,} characters long, longer than any path"
    return ""
