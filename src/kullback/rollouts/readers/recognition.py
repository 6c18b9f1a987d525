"""What a file is: its container by its first bytes, its format by its first record."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import FileError, InputError, UnfinishedError, shown
from kullback.rollouts.readers.aliases import names_in
from kullback.rollouts.readers.containers import RECORDS, Broken
from kullback.rollouts.readers.containers.opening import MAX_LINE, opened
from kullback.rollouts.readers.containers.parsing import parsed
from kullback.rollouts.readers.containers.rows import ARROW_FILE, ARROW_STREAM, PARQUET
from kullback.rollouts.readers.containers.tensors import DAMAGED
from kullback.rollouts.readers.family import formats, names
from kullback.rollouts.readers.format import Container, Format
from kullback.rollouts.record import LOGPROB_COLUMNS

HEAD = 4096
"""Bytes that a container is recognised by."""

TRIES = 20
"""Broken records that are passed over in search of the first good one."""

SHOWN = 12
"""Names of a record that a sentence lists."""


def containers_of(path: Path) -> tuple[Container, ...]:
    """The containers that a file can be, by its first bytes: a line alone is jsonl and a document.

    Raises:
        FileError: it cannot be read, or is empty.
    """
    with opened(path) as file:
        head = file.read(HEAD)
        if not head.strip():
            raise UnfinishedError(f"{path} cannot be read as rollouts: it is empty")
        if head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM)):
            return ("parquet",)
        if head.startswith(b"PK\x03\x04"):
            return _archived(path)
        if re.match(rb"\x80[\x02-\x05]", head):
            return ("torch",)
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text[:1] in (b"{", b"["):
            line = head + (b"" if b"\n" in head else file.readline(MAX_LINE))
            return _lines_or_document(line, more=bool(file.read(1)))
    return _of_text(path, text)


def _archived(path: Path) -> tuple[Container, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except DAMAGED:
        return ("torch",)  # whose own words say what is wrong
    return ("npz",) if inside and all(name.endswith(".npy") for name in inside) else ("torch",)


def _lines_or_document(head: bytes, *, more: bool) -> tuple[Container, ...]:
    first, _, rest = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    alone = not rest.strip() and not more
    try:
        value = parsed(first)
    except ValueError:
        # A line that is spoilt, among others that look like records, or a document over several lines.
        lines = first.rstrip().endswith(b"}") and rest.lstrip(b"\r\n").startswith(b"{")
        return ("jsonl",) if lines else ("json",)
    if not alone:
        return ("jsonl",)
    return ("json",) if isinstance(value, list) else ("jsonl", "json")


def _of_text(path: Path, text: bytes) -> tuple[Container, ...]:
    ending = path.name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".zst")
    if re.match(rb"(data|event|id|retry): ?[^\n]*(\n|$)|:", text) and not ending.endswith((".yaml", ".yml")):
        return ("sse",)
    if b"\x00" in text:
        return ("binary",)
    named = ending.endswith((".yaml", ".yml"))
    return ("yaml",) if named or re.match(rb"(---|- |[\w-]+:(\s|$))", text) else ("binary",)


def first_record(path: Path, container: Container) -> Mapping[str, Any]:
    """The first record that can be read.

    Raises:
        FileError: there is none.
    """
    broken = None
    for tried, (place, record) in enumerate(RECORDS[container](path)):
        if not isinstance(record, Broken):
            return record
        broken = broken or (place, record)
        if tried == TRIES:
            break
    if broken is None:
        raise FileError(f"{path} holds no record")
    kind = UnfinishedError if broken[1].unfinished else FileError
    raise kind(f"{path}{', ' * bool(broken[0])}{broken[0]} cannot be read as rollouts: {broken[1].reason}")


class UnknownError(FileError):
    """A file that no format knows."""


def format_of(path: Path, record: Mapping[str, Any], containers: tuple[Container, ...]) -> Format:
    """The one format that recognises a file's first record.

    Raises:
        FileError: several do; `UnknownError` where none does.
    """
    found = [one for one in formats().values() if recognised(one, record, path, containers)]
    if len(found) == 1:
        return found[0]
    if not found and containers == ("binary",):
        begins = shown(record["head"].decode(errors="replace"))
        raise UnknownError(
            f"{path} is in no format that is known: it begins with {begins}, and is neither JSON, YAML, Parquet, "
            f"Arrow, nor arrays of NumPy or torch; name its format with format= (--format), one of {names()}"
        )
    if not found:
        raise UnknownError(
            f"{path} is in no format that is known: its first record has {seen(record)}; {_advice(record)}, or name "
            f"its format with format= (--format), one of {names()}"
        )
    raise FileError(
        f"{path} looks like {' and '.join(one.name for one in found)}: its first record has {seen(record)}; "
        "name its format with format= (--format)"
    )


def recognised(one: Format, record: Mapping[str, Any], path: Path, containers: tuple[Container, ...]) -> bool:
    """Whether a file's first record is of a format."""
    try:
        return bool(set(containers) & set(one.containers)) and one.recognises(record, path)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        return False  # a record of others, of a shape that nobody thought of


def seen(record: Mapping[str, Any]) -> str:
    """What a record has, for people."""
    shown = [str(name)[:40] for name in list(record)[:SHOWN]]
    if not shown:
        return "no names"
    more = f" and {len(record) - SHOWN} more" if len(record) > SHOWN else ""
    return f"the names {', '.join(map(repr, shown))}{more}"


def _advice(record: Mapping[str, Any]) -> str:
    """What to do about a record whose columns nobody knows."""
    try:
        there = names_in(record)
    except InputError as error:
        return str(error)
    for name in (there[ours] for ours in LOGPROB_COLUMNS if ours in there):
        if not isinstance(record[name], list | tuple | np.ndarray | Mapping):
            return f"its {name} is {shown(record[name])}, and a list with a number for every token is read: convert it"
    lists = [str(name)[:40] for name, value in record.items() if _holds_logprobs(value)]
    if len(lists) != 2:
        return "name its columns with map= (--map)"
    ours, theirs = sorted(lists, key=lambda name: "ref" in name.lower() or "base" in name.lower())
    return f"name its columns with map=, perhaps --map logprobs={ours} --map ref_logprobs={theirs}"


def _holds_logprobs(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, float) and x <= 0 for x in value)


def named(name: str) -> Format:
    """The format of a name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in formats():
        raise InputError(f"format={shown(name)} came, but there is a reader for {names()}")
    return formats()[name]


def container_of(path: Path, one: Format, containers: tuple[Container, ...]) -> Container:
    """In which of the containers that a file can be the records of a format lie.

    Raises:
        UnknownError: in none of them.
    """
    fitting = [container for container in containers if container in one.containers]
    if not fitting:
        raise UnknownError(
            f"{path} cannot be read as {one.name}: it is {' or '.join(containers)}, and {one.name} is "
            f"{' or '.join(one.containers)}"
        )
    return fitting[0]
