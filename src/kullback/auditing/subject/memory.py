"""What a function keeps between its calls: seen, and taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CellType, FunctionType, ModuleType
from typing import Any

from kullback.arrays import is_torch

FOREIGN = frozenset(["torch", "jax", "jaxlib", "numpy", "kullback", "builtins", "typing", "functools", "math"])
"""Packages whose own code is not looked at."""

PLACES = 2000
"""Things that are watched, of one function."""


@dataclass(frozen=True)
class Kept:
    """What some places held.

    Attributes:
        contents: of each place, the place itself and what was in it.
        versions: of each tensor, and how often it had been changed in place.
        whole: whether no place was left out.
    """

    contents: tuple[tuple[Any, Any], ...]
    versions: tuple[tuple[Any, int], ...]
    whole: bool

    def same(self) -> bool:
        """Whether all of it is still there, and nothing else."""
        still = all(tensor._version == version for tensor, version in self.versions)
        return self.whole and still and all(_unchanged(place, held) for place, held in self.contents)

    def take_back(self) -> None:
        """Put back what was there; a tensor that was changed in place stays so."""
        for place, held in self.contents:
            if not _unchanged(place, held):
                with contextlib.suppress(AttributeError, TypeError):
                    _fill(place, held)


@dataclass(frozen=True)
class Memory:
    """The things that a function's code may keep something in.

    Attributes:
        roots: variables, objects, classes, modules and closures' cells within its reach.
    """

    roots: tuple[object, ...] = field(default=())

    def now(self) -> Kept:
        """What is in them, and in what they hold."""
        contents: list[tuple[Any, Any]] = []
        versions: list[tuple[Any, int]] = []
        waiting, seen = list(self.roots), set[int]()
        while waiting and len(seen) < PLACES:
            place = waiting.pop()
            if id(place) in seen:
                continue
            seen.add(id(place))
            if is_torch(place):
                versions.append((place, place._version))
            elif (held := _held(place)) is not None:
                contents.append((place, held))
                waiting += [one for one in _values(held) if _may_keep(one)]
        return Kept(tuple(contents), tuple(versions), not waiting)


def memory_of(reached: Iterable[object]) -> Memory:
    """What some functions and objects may keep something in."""
    return Memory(tuple(place for found in reached for place in _places(found)))


def _places(found: object) -> Iterator[object]:
    if not isinstance(found, FunctionType):
        yield found
        if _own(type(found)):
            yield type(found)
        return
    yield found.__dict__
    yield from found.__closure__ or ()
    yield from (one for one in found.__defaults__ or () if isinstance(one, dict | list | set))
    if (found.__module__ or "").partition(".")[0] in FOREIGN:
        return
    for name in {*found.__code__.co_names, *_inner_names(found.__code__)}:
        value = found.__globals__.get(name)
        owned = isinstance(value, type | ModuleType) and _own(value)
        if owned or isinstance(value, dict | list | set) or is_torch(value):
            yield value
    yield _Globals(found)


def _inner_names(code: Any) -> Iterator[str]:
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from constant.co_names
            yield from _inner_names(constant)


class _Globals:
    """The variables of its module that a function names, as one place."""

    def __init__(self, fn: FunctionType) -> None:
        self.variables = fn.__globals__
        self.names = {*fn.__code__.co_names, *_inner_names(fn.__code__)}


def _own(found: object) -> bool:
    module = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", "")
    return str(module).partition(".")[0] not in FOREIGN


def _may_keep(one: object) -> bool:
    """Whether something may be changed without being exchanged."""
    if isinstance(one, dict | list | set | tuple) or is_torch(one):
        return True
    return not isinstance(one, type | ModuleType | FunctionType) and hasattr(one, "__dict__") and _own(type(one))


def _held(place: Any) -> Any:
    """A copy of what is in a place, None where nothing can be."""
    if isinstance(place, dict | list | set | tuple):
        return place.copy() if not isinstance(place, tuple) else place
    if isinstance(place, CellType):
        return _cell(place)
    if isinstance(place, _Globals):
        return {name: place.variables[name] for name in place.names if name in place.variables}
    return dict(vars(place)) if hasattr(place, "__dict__") else None


def _cell(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _values(held: Any) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held


def _unchanged(place: Any, held: Any) -> bool:
    now = _held(place)
    if isinstance(held, set):
        return bool(now == held)
    if isinstance(held, dict):
        return now.keys() == held.keys() and all(now[name] is value for name, value in held.items())
    return len(now) == len(held) and all(a is b for a, b in zip(now, held, strict=True))


def _fill(place: Any, held: Any) -> None:
    if isinstance(place, dict | set):
        place.clear()
        place.update(held)
    elif isinstance(place, list):
        place[:] = held
    elif isinstance(place, CellType):
        place.cell_contents = held[0]
    elif isinstance(place, _Globals):
        place.variables.update(held)
    else:
        for name in vars(place).keys() - held.keys():
            delattr(place, name)
        for name, value in held.items():
            if vars(place).get(name) is not value:
                setattr(place, name, value)
