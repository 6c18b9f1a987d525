"""A function that can be called: a method with a stand-in for its object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MethodType, SimpleNamespace
from typing import NoReturn

from kullback.auditing.subject.functions import Function
from kullback.errors import InputError


@dataclass(frozen=True)
class Located:
    """A function, and how it was got hold of."""

    fn: Function
    origin: str

    def bound(self, qualname: str, attributes: Mapping[str, object] | None) -> Located:
        """A static method's function; a method on a stand-in for `self` that has the given attributes.

        Raises:
            InputError: what the name stands for cannot be called.
        """
        stand_in = _Self(**(attributes or {}))
        found: object = self.fn
        if isinstance(found, staticmethod):
            return Located(found.__func__, self.origin)
        if isinstance(found, classmethod):
            return Located(MethodType(found.__func__, stand_in), self.origin)
        if "." in qualname and hasattr(found, "__get__"):
            return Located(found.__get__(stand_in), self.origin)
        if not callable(found):
            raise InputError(f"{qualname} is a {type(found).__name__}, but a function is needed")
        return self


class _Self(SimpleNamespace):
    """A stand-in for a method's object."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"self has no {name!r} here: give it with --set self.{name}=VALUE")
