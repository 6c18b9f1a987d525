"""What a file is, and the source that reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kullback.errors import FileError
from kullback.rollouts.parquet import ParquetSource, is_ours, names_of
from kullback.rollouts.part import ENDING
from kullback.rollouts.readers.family import OURS
from kullback.rollouts.readers.foreign import FormatSource, Reading, step_of
from kullback.rollouts.readers.format import Container, Format
from kullback.rollouts.readers.recognition import (
    UnknownError,
    container_of,
    containers_of,
    first_record,
    format_of,
    named,
    recognised,
)
from kullback.rollouts.readers.text_only import PLAIN
from kullback.rollouts.table import Source
from kullback.rollouts.unfinished import PartSource

TABLE = "table"
"""The format of any table of numbers, which `map` makes of a file."""

BESIDE = ("binary", "yaml", "sse")
"""Containers that notes and logs are taken for: such a file beside dumps need not be readable."""


@dataclass(frozen=True)
class Identity:
    """What a file is.

    Attributes:
        ours: "parquet" or "part", None for somebody else's format.
        format: that format.
        container: in which its records lie.
    """

    ours: str | None = None
    format: Format | None = None
    container: Container | None = None


def identity_of(path: Path, format: str | None, reading: Reading) -> Identity:
    """What a file is: by its content, or as it was named.

    Raises:
        FileError: it cannot be read, or could be several things; `UnknownError` where no format knows it.
        InputError: there is no such format.
    """
    if reading.texts and (format == PLAIN.name or (format is None and _names_texts(reading))):
        return Identity(None, PLAIN, container_of(path, PLAIN, containers_of(path)))
    wanted = TABLE if format is None and reading.names else format
    if wanted in OURS:
        return Identity(wanted)
    if wanted is None and (path.suffix == ENDING or is_ours(path)):
        return Identity("part" if path.suffix == ENDING else "parquet")
    one = None if wanted is None else named(wanted)
    containers = containers_of(path)
    if one is None:
        if path.suffix == ".parquet" and containers == ("binary",):
            return Identity("parquet")  # whose reader says what is wrong
        one = _recognised(path, containers, reading)
    return Identity(None, one, container_of(path, one, containers))


def _names_texts(reading: Reading) -> bool:
    """Whether columns of texts were named."""
    return bool({"prompt", "completion"} & set(reading.names or ()))


def _recognised(path: Path, containers: tuple[Container, ...], reading: Reading) -> Format:
    """The format of a file, or that of any texts where they are wanted and no other knows it."""
    record = first_record(path, containers[0])
    try:
        return format_of(path, record, containers)
    except UnknownError:
        if reading.texts and recognised(PLAIN, record, path, containers):
            return PLAIN
        raise


def source_of(path: Path, identity: Identity, reading: Reading) -> Source:
    """What reads the file."""
    if identity.ours == "part":
        return PartSource(path)
    if identity.format is None or identity.container is None:
        return ParquetSource(path)
    names = _columns(path, identity, reading)
    if names is not None:
        return ParquetSource(path, names, identity.format, step_of(path, identity.format))
    return FormatSource(path, _readable(identity.format, reading), identity.container, reading)


def _readable(one: Format, reading: Reading) -> Format:
    """The format, with its texts in the place of rollouts that it does not have, where they are wanted."""
    return one if one.texts is None or not reading.texts else replace(one, advice=None, rollouts=one.texts)


def _columns(path: Path, identity: Identity, reading: Reading) -> dict[str, str] | None:
    """Which columns of a table hold what, where each holds one thing; then it is read by column."""
    known = None if identity.format is None else identity.format.columns
    if known is None or identity.container != "parquet" or reading.skip_bad:
        return None
    there = names_of(path)
    if there is None:
        return None
    mapped = dict(reading.names or {})
    if not set(mapped.values()) <= set(there):
        return None
    found = known([*there, *mapped])
    return None if found is None else {**found, **mapped}


def opened(path: Path, format: str | None, reading: Reading) -> Source | None:
    """A file of a folder as a source; None where no format knows it, or not the one that was named.

    Raises:
        FileError: it cannot be read, or could be several things.
    """
    try:
        identity = identity_of(path, format, reading)
        if format is not None and not _is_what_was_named(path, identity):
            return None
    except UnknownError:
        return None
    except FileError:
        if not is_ours(path) and set(containers_of(path)) & set(BESIDE):
            return None
        raise
    return source_of(path, identity, reading)


def _is_what_was_named(path: Path, identity: Identity) -> bool:
    if identity.format is None:
        return path.suffix == ENDING if identity.ours == "part" else is_ours(path)
    containers = containers_of(path)
    return recognised(identity.format, first_record(path, containers[0]), path, containers)
