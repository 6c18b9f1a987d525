"""Numbers that are options."""

from __future__ import annotations

from typing import Any

import numpy as np

from kullback.errors import InputError


def number(name: str, value: Any, what: str, *, infinite: bool = False) -> float:
    """An option as a float: finite unless an infinity means something; what it has to be is said in words.

    Raises:
        InputError: it is none.
    """
    try:
        found = float("nan") if isinstance(value, bool | np.bool_ | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        found = float("nan")
    if np.isnan(found) or (np.isinf(found) and not infinite):
        raise InputError(f"{name}={value!r} came, but {what}")
    return found


def digits(value: float) -> str:
    """A number in a name: short, and never the same for two numbers.

    Example:
        >>> from kullback.arrays import digits
        >>> digits(0.5), digits(0.12345678)
        ('0.5', '0.12345678')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))
