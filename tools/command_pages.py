"""The page of the commands, read off the parser that `kullback` itself uses."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from kullback.cli.app import app
from kullback.documents import Block, Code, Document, Heading, Note, Table

PLAIN = {str: "text", int: "number", float: "number", Path: "path", bool: ""}


def commands() -> Document:
    """Every command with its arguments and options."""
    head = Note(
        "Written by `make docs` from the parser; `kullback COMMAND --help` prints the same. Every command ends with "
        "status 0 (it ran, and the answer is good), 1 (it ran, and the answer is bad: a gate that fails, an alarm, a "
        "finding) or 2 (it could not run, with one sentence that says what to do). `--json`, where it is there, prints "
        "one object."
    )
    found: list[Block] = [head]
    for path, command in _leaves(typer.main.get_command(app), ("kullback",)):
        found += _section(path, command)
    return Document("Commands", tuple(found))


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, each in below.items():
        yield from _leaves(each, (*path, name))


def _section(path: tuple[str, ...], command: Any) -> Iterator[Block]:
    yield Heading(" ".join(path))
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "").replace("\x08", "")):
        text = " ".join(paragraph.split())
        yield Code(text, "") if text.startswith("kullback ") else Note(text)
    hints = get_type_hints(inspect.unwrap(command.callback))
    rows = tuple(
        _row(parameter, hints.get(parameter.name, str)) for parameter in command.params if not parameter.hidden
    )
    yield Table("", "", ("argument or option", "takes", "default", "what it does"), rows)


def _row(parameter: Any, hint: Any) -> tuple[str, str, str, str]:
    optional = parameter.opts[0].startswith("-")
    written = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    default = "required" if parameter.required else _default(parameter.default)
    several = ", repeated" if parameter.multiple else "" if optional or parameter.nargs == 1 else ", several"
    takes = (_kind(hint) + several).removeprefix(", ")
    return written if optional else f"`{parameter.name.upper()}`", takes, default, parameter.help or ""


def _default(value: Any) -> str:
    value = value() if callable(value) else value
    if value is None or value == "" or value == [] or value == () or isinstance(value, bool):
        return "on" if value is True else ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _kind(hint: Any) -> str:
    """What a value of this type is written as."""
    origin, inside = get_origin(hint), [each for each in get_args(hint) if each is not type(None)]
    if origin is Literal:
        return ", ".join(map(str, inside))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(each.value) for each in hint)
    if origin in (Union, types.UnionType, list, tuple):
        return _kind(inside[0])
    return PLAIN.get(hint, "text")
