"""A row of a file, and what it is called in a sentence about it."""

from __future__ import annotations

from dataclasses import dataclass

from kullback.errors import InputError


@dataclass(frozen=True)
class Row:
    """What stands in one place of a file.

    Attributes:
        place: where, as ``row 3 of prompts.csv``.
        value: a text, an object by column, or whatever else the file holds.
    """

    place: str
    value: object


KINDS: dict[type, str] = {
    type(None): "nothing (null)",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    bytes: "bytes",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """What a value is, for people: ``a whole number (5)``, ``a list``."""
    name = KINDS.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({value})" if isinstance(value, int | float) and not isinstance(value, bool) else name


def checked_text(text: str, place: str) -> str:
    """The text, if an encoding has it.

    Raises:
        InputError: half a pair of surrogates, which JSON can hold and no tokenizer reads.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place} holds half a character (\\u{ord(text[error.start]):04x} at {error.start}): "
            "it was cut within an emoji or the like, mend it"
        ) from None
    return text
