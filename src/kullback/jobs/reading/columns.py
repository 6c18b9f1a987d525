"""The prompt or the text of a row: which column holds it, and in which shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from kullback.errors import InputError
from kullback.jobs.reading.messages import conversation
from kullback.jobs.reading.rows import Row, checked_text, kind_of
from kullback.models.protocols import Prompt

PROMPT_COLUMNS = (
    "prompt",
    "messages",
    "conversations",
    "conversation",
    "question",
    "problem",
    "instruction",
    "text",
    "query",
    "input",
)
TEXT_COLUMNS = ("text", "content", "document")

CHATS = ("messages", "conversations", "conversation")
TURNS = ("question", "problem", "instruction")


class Turn(str):
    """What a user says to an assistant: it goes through the chat template of a model that has one."""

    __slots__ = ()


def column_of(rows: Sequence[Row], known: Sequence[str], asked: str | None) -> str | None:
    """The column to read: the one that was asked for, or the first known one that holds something in some row.

    None where the rows are no objects, or hold none of them; then `prompt_of` says what is wrong with a row.

    Raises:
        InputError: the one that was asked for is in no row.
    """
    objects = [row.value for row in rows if isinstance(row.value, Mapping)]
    if asked is None:
        return next((name for name in known if any(value.get(name) is not None for value in objects)), None)
    if objects and not any(asked in value for value in objects):
        has = ", ".join(map(str, dict.fromkeys(name for value in objects[:100] for name in value)))
        raise InputError(f"no row has a column {asked}: there are {has}")
    return asked


def prompt_of(row: Row, column: str | None, known: Sequence[str], *, wanted: bool) -> Prompt:
    """The prompt of a row.

    Args:
        row: a text, messages, or an object by column.
        column: the file's; a row that lacks it, as in files of several shapes, is looked through for the others.
        known: the columns that are looked for.
        wanted: whether the user named the column.

    Raises:
        InputError: a row without a prompt, or of another type.
    """
    value, place = row.value, row.place
    if isinstance(value, str):
        return checked_text(value, place)
    if isinstance(value, list | tuple) and value and all(isinstance(message, Mapping) for message in value):
        return conversation(value, place)
    if not isinstance(value, Mapping):
        raise InputError(f"{place} is {kind_of(value)}, but a text, chat messages or an object of columns is needed")
    name = column
    if not wanted and (column is None or column not in value):
        name = next((other for other in known if value.get(other) is not None), None)
    if name is None or name not in value:
        raise InputError(_lacking(row, known))
    return _held(value, name, f"{place}, column {name},")


def _lacking(row: Row, known: Sequence[str]) -> str:
    assert isinstance(row.value, Mapping)
    has = ", ".join(map(str, row.value)) or "none"
    if {"role", "content"} <= set(row.value) or {"from", "value"} <= set(row.value):
        return f"{row.place} is one chat message, but a prompt is a list of them: wrap each conversation in a list"
    return (
        f"{row.place} has the columns {has}, but one named {', '.join(known[:-1])} or {known[-1]} is needed: "
        "rename it, or name it with --prompt-column or --text-column"
    )


def _held(row: Mapping[str, object], name: str, place: str) -> Prompt:
    value = row[name]
    if isinstance(value, str) and name in CHATS:
        value = _unpacked(value)
    if isinstance(value, str):
        text = checked_text(value, place)
        more = row.get("input") if name == "instruction" else None
        if isinstance(more, str) and more.strip():  # as Alpaca's rows have it
            text = f"{text}\n\n{checked_text(more, place)}"
        return Turn(text) if name in TURNS else text
    if isinstance(value, list | tuple) and all(isinstance(message, Mapping) for message in value):
        return conversation(value, place.removesuffix(","))
    raise InputError(f"{place} holds {kind_of(value)}, but a text or a list of chat messages is needed")


def _unpacked(text: str) -> object:
    """Messages that a table of texts holds as JSON, or the text."""
    try:
        found: object = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, list) else text
