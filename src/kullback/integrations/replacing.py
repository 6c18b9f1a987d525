"""Exchange a trainer's function for another one, and put it back: only where the trainer offers no hook."""

from __future__ import annotations

import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kullback.errors import InputError


def fingerprint(function: Callable[..., Any]) -> str:
    """The first sixteen hexadecimal digits of SHA-256 of a function's source.

    Example:
        >>> from kullback.integrations.replacing import fingerprint
        >>> len(fingerprint(fingerprint))
        16
    """
    text = textwrap.dedent(inspect.getsource(function))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_unknown(function: Callable[..., Any], known: Mapping[str, str]) -> None:
    """Let a function pass whose source is one of those that its stand-in was written for.

    Args:
        function: the trainer's.
        known: its fingerprint → the release that has it.

    Raises:
        InputError: another one came.
    """
    if hasattr(function, "__wrapped__"):
        raise InputError(
            f"{function.__module__}.{function.__qualname__} was replaced already: undo that before it is replaced anew"
        )
    found = fingerprint(function)
    if found not in known:
        raise InputError(
            f"{function.__module__}.{function.__qualname__} is not as this was written for ({found} came, known are "
            f"those of {', '.join(dict.fromkeys(known.values()))}): install one of these, or undo what else replaced it"
        )


@dataclass
class Installed:
    """A replacement that stands until it is undone, by `undo()` or at the end of a `with`.

    Attributes:
        original: the trainer's function.
        replacement: what stands in its place.
        places: the modules whose name was bound to it.
    """

    original: Callable[..., Any]
    replacement: Callable[..., Any]
    places: tuple[str, ...]
    _undone: bool = field(default=False, repr=False)

    def undo(self) -> None:
        """Bind every name to the trainer's function again; a second time does nothing."""
        if self._undone:
            return
        _bind(self.original.__name__, self.replacement, self.original)
        self._undone = True

    def __enter__(self) -> Installed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.undo()


def replace(original: Callable[..., Any], replacement: Callable[..., Any]) -> Installed:
    """Bind the function's name to the replacement in every module that was loaded with it.

    Functions that were handed on already (in a `functools.partial`, say) stay as they are: install before the
    trainer is built.

    Example:
        >>> from kullback.integrations import replacing
        >>> with replacing.replace(replacing.fingerprint, lambda function: "0" * 16) as installed:
        ...     print(installed.places, replacing.fingerprint(print))
        ('kullback.integrations.replacing',) 0000000000000000
        >>> len(set(replacing.fingerprint(replacing.fingerprint))) > 1
        True
    """
    return Installed(original, replacement, _bind(original.__name__, original, replacement))


def _bind(name: str, old: Callable[..., Any], new: Callable[..., Any]) -> tuple[str, ...]:
    places = [module for module, loaded in list(sys.modules.items()) if _holds(loaded, name, old)]
    for module in places:
        setattr(sys.modules[module], name, new)
    return tuple(places)


def _holds(loaded: object, name: str, old: Callable[..., Any]) -> bool:
    # Not getattr: lazy modules would load what they only promise.
    return getattr(loaded, "__dict__", {}).get(name) is old
