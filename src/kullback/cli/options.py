"""Options: numbers within bounds, and which of them have nothing to do with each other; before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import typer

from kullback.cli.screen import fail

LARGEST = 10**9
"""Of a number that has no bound of its own: what is more is a slip of the pen."""


def within(low: float, high: float = LARGEST, *, above: bool = False) -> Callable[[typer.CallbackParam, Any], Any]:
    """A check of an option's number, or of each of its numbers: finite, from low (or above it) to high."""

    def check(option: typer.CallbackParam, value: Any) -> Any:
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and not _fits(number, low, high, above=above):
                most = "" if high == LARGEST else f" and at most {high:,.12g}"
                least = f"above {low:g}" if above else f"at least {low:g}"
                fail(f"{option.opts[0]} {number} came, but a number {least}{most} is needed")
        return value

    return check


def _fits(number: float, low: float, high: float, *, above: bool) -> bool:
    # A whole number may be too large for a float.
    finite = isinstance(number, int) or isfinite(number)
    return finite and (low < number if above else low <= number) and number <= high


def given(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Those of the options that the user gave, as they are written."""
    written = {option.name: option.opts[0] for option in context.command.params}
    return [written[name] for name in names if came(context, name)]


def came(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option or an argument."""
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Leave with a sentence if the user gave one of the options, which would do nothing."""
    came = given(context, names)
    if came:
        fail(f"{' and '.join(came)} came {why}: leave {'them' if len(came) > 1 else 'it'} out")


def choice(option: str, value: str, choices: Mapping[str, object] | Sequence[str]) -> str:
    """The value, if it is one of the choices."""
    if value not in choices:
        fail(f"{option} {value} came, but it is one of {', '.join(choices)}")
    return value
