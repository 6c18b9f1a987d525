"""What a container finds: a record, or what is wrong where one should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Broken:
    """A place of a file that holds no record.

    Attributes:
        reason: what is wrong with it.
        unfinished: whether it may be that its writer has not come to its end.
    """

    reason: str
    unfinished: bool = False


Found = tuple[str, Mapping[str, Any] | Broken]
"""Where it was found, such as "line 3", and what; a place of "" is the whole file."""


def each(document: object, word: str) -> Iterator[Found]:
    """The records of a document that is one, or a list of them."""
    if not isinstance(document, list):
        yield "", as_record(document)
        return
    for number, one in enumerate(document):
        yield f"{word} {number}", as_record(one)


def as_record(value: object) -> Mapping[str, Any] | Broken:
    """A parsed value, if it is a record."""
    if isinstance(value, Mapping):
        return value
    kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), f"a {type(value).__name__}")
    return Broken(f"{kind} came, but a record is an object with names")
