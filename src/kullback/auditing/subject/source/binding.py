"""A function that can be called: a method with a stand-in for its object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

from kullback.auditing.subject.containers import config
from kullback.auditing.subject.filled import filled
from kullback.auditing.subject.functions import Function
from kullback.errors import InputError

Members = Callable[[str], Any]
"""A member of a class by its name; raises AttributeError for one that it does not have."""


@dataclass(frozen=True)
class Located:
    """A function, and how it was got hold of.

    Attributes:
        fn: the function.
        origin: how, in words.
        file, line: where it begins; "" and 0 where that is not known.
        members: the other members of its class, for a method.
    """

    fn: Function
    origin: str
    file: str = ""
    line: int = 0
    members: Members | None = None

    def bound(self, qualname: str, attributes: Mapping[str, object] | None) -> Located:
        """A static method's function; a method on a stand-in for `self` that has the given attributes.

        What it lacks is looked up in the class: its other methods, and attributes that have a value there.

        Raises:
            InputError: what the name stands for cannot be called.
        """
        stand_in = StandIn(self.members, config({k: filled(v) for k, v in (attributes or {}).items()}))
        found: object = self.fn
        if isinstance(found, staticmethod):
            return self._of(found.__func__)
        if isinstance(found, classmethod):
            return self._of(MethodType(found.__func__, stand_in))
        if "." in qualname and hasattr(found, "__get__"):
            return self._of(found.__get__(stand_in))
        if not callable(found):
            raise InputError(f"{qualname} is a {type(found).__name__}, but a function is needed")
        return self

    def _of(self, fn: Function) -> Located:
        return Located(fn, self.origin, self.file, self.line)


class StandIn(SimpleNamespace):
    """A stand-in for a method's object: what was given, and what its class has."""

    def __init__(self, members: Members | None, attributes: Mapping[str, object]) -> None:
        super().__init__(**attributes)
        self.__dict__["_members"] = members

    def __getattr__(self, name: str) -> Any:
        members = self.__dict__.get("_members")
        if members is not None and not name.startswith("__"):
            try:
                return _on(self, members(name))
            except AttributeError:
                pass
        raise AttributeError(f"self has no {name!r} here: give it with --set self.{name}=VALUE")

    def __call__(self, *args: object, **named: object) -> Any:
        """As a module's object is called."""
        return self.forward(*args, **named)


def _on(stand_in: StandIn, member: Any) -> Any:
    """A member of a class as its object has it."""
    if isinstance(member, staticmethod):
        return member.__func__
    if isinstance(member, classmethod):
        return MethodType(member.__func__, stand_in)
    if isinstance(member, property) and member.fget is not None:
        return member.fget(stand_in)
    return MethodType(member, stand_in) if isinstance(member, FunctionType) else member


def members_of(owner: type, attributes: Mapping[str, object]) -> Members:
    """The members of a class, and what its `__init__` sets, where that can be called with what was given."""
    made: list[object] = []

    def member(name: str) -> Any:
        for part in owner.__mro__[:-1]:
            # Not what torch or object have: a module's own members need its real object.
            if name in vars(part) and not part.__module__.startswith("torch."):
                return vars(part)[name]
        if not made:
            made.append(_made(owner, attributes))
        if name in getattr(made[0], "__dict__", {}):
            return vars(made[0])[name]
        raise AttributeError(name)

    return member


def _made(owner: type, attributes: Mapping[str, object]) -> object:
    """An object of a class, with the attributes that were given as arguments; None where it cannot be made."""
    import inspect

    try:
        wanted = inspect.signature(owner).parameters
        return owner(**{name: value for name, value in attributes.items() if name in wanted})
    except Exception:
        return None
