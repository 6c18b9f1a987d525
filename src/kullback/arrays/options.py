"""Options: numbers, and functions that have some."""

from __future__ import annotations

from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from kullback.errors import InputError, shown


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
        raise InputError(f"{name}={shown(value)} came, but {what}")
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


def fingerprint(value: Any) -> str:
    """A function, an option or a container of them as text: equal for equal formulas with equal options.

    Example:
        >>> from functools import partial
        >>> from kullback.arrays import fingerprint
        >>> fingerprint(partial(round, ndigits=2))
        'builtins.round(ndigits=2)'
    """
    if isinstance(value, partial):
        options = [fingerprint(option) for option in value.args]
        options += [f"{name}={fingerprint(option)}" for name, option in sorted(value.keywords.items())]
        return f"{fingerprint(value.func)}({', '.join(options)})"
    if not callable(value):
        return repr(value)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    code = getattr(value, "__code__", None)
    if code is None or "<" not in name:
        return f"{value.__module__}.{name}"
    # Functions that are made on the spot share a name: their code and what it holds tell them apart.
    held = [fingerprint(cell.cell_contents) for cell in value.__closure__ or ()]
    made = repr((code.co_code, [c for c in code.co_consts if not hasattr(c, "co_code")], code.co_names, held))
    return f"{value.__module__}.{name}#{crc32((made + repr(value.__defaults__)).encode()):08x}"
