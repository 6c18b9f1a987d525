"""The formats that are known, and what they are recognised among."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from kullback.rollouts.readers.format import Format

MODULES: tuple[str, ...] = ()
"""The modules beside this one that hold formats, in the order of the alphabet: each a `FORMAT`, or `FORMATS`."""

OURS = ("parquet", "part")
"""Our own formats, by name: the table of rollouts, and what a job has finished of one."""


@cache
def formats() -> Mapping[str, Format]:
    """Every format by its name; the modules are loaded when this is first asked for."""
    found: dict[str, Format] = {}
    for name in MODULES:
        module = import_module(f"kullback.rollouts.readers.{name}")
        for one in getattr(module, "FORMATS", None) or (module.FORMAT,):
            if one.name in found or one.name in OURS:
                raise ValueError(f"two formats are called {one.name}")
            found[one.name] = one
    return found


def names() -> str:
    """The names that `format` can have, for people."""
    return ", ".join((*OURS, *sorted(formats())))
