"""YAML documents, such as the cassettes in which tests keep a server's answers. No tag of Python is obeyed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kullback.errors import FileError, MissingPackageError
from kullback.rollouts.readers.containers.found import Found, each
from kullback.rollouts.readers.containers.opening import whole

MAX_TEXT = 1 << 26
"""Bytes of a YAML file: 64 MiB take a minute."""

MAX_VALUES = 10_000_000
"""Values of a document, each alias counted as what it stands for: a bomb of aliases has billions in a few lines."""


def records(path: Path) -> Iterator[Found]:
    """The documents, or the entries of the list that one is.

    Raises:
        FileError: the file cannot be read, is no YAML, or is too large.
        MissingPackageError: PyYAML is not installed.
    """
    text = whole(path)
    if len(text) > MAX_TEXT:
        raise FileError(f"{path} is YAML of more than {MAX_TEXT >> 20} MiB: write it as JSON, a record a line")
    for document in _documents(path, text):
        if _values(document, {}) > MAX_VALUES:
            raise FileError(f"{path} cannot be read as rollouts: its aliases stand for more than {MAX_VALUES:,} values")
        yield from each(document, "document")


def _documents(path: Path, text: bytes) -> list[Any]:
    try:
        import yaml
    except ImportError:
        raise MissingPackageError("pyyaml", "dumps") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return list(yaml.load_all(text, loader))
    except RecursionError:
        why = "it is nested too deeply"
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        why = f"it is not YAML ({' '.join(str(error).split())[:200]})"
    raise FileError(f"{path} cannot be read as rollouts: {why}")


def _values(value: object, known: dict[int, int]) -> int:
    """How many values a document stands for; what an alias names is counted each time, but looked at once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MAX_VALUES + 1  # of one that holds itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]
