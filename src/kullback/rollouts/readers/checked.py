"""The fields of a record, each with what is wrong with it in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from reprlib import Repr

from kullback.arrays.bounds import POSITIVE_ALLOWED, SENTINEL
from kullback.errors import InputError
from kullback.rollouts.readers.format import Record

LARGEST_ID = 2**31 - 1

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxlong, _SHORT.maxstring = 2, 2, 3, 40, 40


def excerpt(value: object) -> str:
    """A value in a sentence, cut where it is long."""
    try:
        shown = _SHORT.repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def mapping(value: object, name: str) -> Record:
    """An object with keys.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {excerpt(value)}, but an object with keys is needed")
    return value


def listed(value: object, name: str) -> Sequence[object]:
    """A list.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is {excerpt(value)}, but a list is needed")
    return value


def text(value: object, name: str) -> str:
    """A text.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} is {excerpt(value)}, but a text is needed")
    return value


def count(value: object, name: str) -> int:
    """A whole number of tokens or places.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_ID:
        raise InputError(f"{name} is {excerpt(value)}, but a whole number is needed, from 0 to 2^31 − 1")
    return value


def token_id(value: object, name: str) -> int:
    """The id of a token.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_ID:
        raise InputError(f"{name} is {excerpt(value)}, but the id of a token is a whole number from 0 to 2^31 − 1")
    return value


def logprob(value: object, name: str) -> float:
    """The log-prob of a token that was drawn.

    Raises:
        InputError: it is no number, above 0, or what servers write where they know none.
    """
    number = real(value, name)
    if not SENTINEL < number <= POSITIVE_ALLOWED:
        raise InputError(
            f"{name} is {number:g}, but a log-prob in nats of a token that was drawn is at most 0 and finite"
        )
    return number


def listed_logprob(value: object, name: str) -> float | None:
    """The log-prob of a word in a list; None for −inf and below what servers know, where it stands for no number.

    Raises:
        InputError: it is no number, nan, or above 0.
    """
    number = -math.inf if value == "-inf" else real(value, name)
    if math.isnan(number) or number > POSITIVE_ALLOWED:
        raise InputError(f"{name} is {number:g}, but a log-prob in nats is at most 0")
    return number if number > SENTINEL else None


def real(value: object, name: str) -> float:
    """A number.

    Raises:
        InputError: it is none, or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {excerpt(value)}, but a number is needed")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is {excerpt(value)}, which is too large for a number") from None


def at(record: object, *path: str | int) -> object:
    """What lies at a path of keys and places; None where there is no such thing."""
    found = record
    for key in path:
        if isinstance(found, Mapping) and isinstance(key, str):
            found = found.get(key)
        elif isinstance(found, list | tuple) and isinstance(key, int) and -len(found) <= key < len(found):
            found = found[key]
        else:
            return None
    return found
