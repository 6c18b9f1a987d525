"""JSON as it is parsed: by orjson where it is installed, else by Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache


def parsed(text: bytes) -> object:
    """The value of a JSON text; NaN and Infinity are taken, as Python writes them.

    Raises:
        ValueError: it is none, in words without the text.
    """
    try:
        return _fastest()(text)
    except ValueError:
        return _by_python(text)


@cache
def _fastest() -> Callable[[bytes], object]:
    try:
        import orjson
    except ImportError:
        return _by_python
    found: Callable[[bytes], object] = orjson.loads
    return found


def _by_python(text: bytes) -> object:
    """What orjson refuses though writers write it: NaN, Infinity, whole numbers beyond 64 bits."""
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from None
    except ValueError:  # more digits than Python converts
        raise ValueError("it holds a number of thousands of digits") from None
