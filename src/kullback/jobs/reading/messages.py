"""Conversations as people keep them, as a chat template reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kullback.errors import InputError, shown
from kullback.jobs.reading.rows import checked_text, kind_of

ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""Who speaks, by the names that ShareGPT's files have."""


def conversation(messages: Sequence[object], place: str) -> list[dict[str, Any]]:
    """Messages with a role and a text, up to the last that is not the model's own: what it is to answer.

    ShareGPT's ``from`` and ``value`` become ``role`` and ``content``, and content in parts becomes one text.

    Raises:
        InputError: a message without a role or a text, by its number; or none that is to be answered.
    """
    found = [_message(message, f"{place}, message {number}") for number, message in enumerate(messages, 1)]
    while found and found[-1]["role"] == "assistant":
        found.pop()
    if messages and not found:
        raise InputError(f"{place} holds answers of the assistant alone, but something to answer is needed")
    return found


def _message(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{place} is {kind_of(message)}, but an object with role and content is needed")
    sharegpt = "from" in message and "role" not in message
    keys = ("from", "value") if sharegpt else ("role", "content")
    role, content = (message.get(key) for key in keys)
    if not isinstance(role, str) or not role:
        has = f"the keys {', '.join(map(str, message))}" if keys[0] not in message else f"as {keys[0]} {kind_of(role)}"
        raise InputError(f"{place} has {has}, but a role such as user is needed, and a content")
    if sharegpt and role.lower() not in ROLES:
        raise InputError(f"{place} is from {shown(role)}, but human, gpt, system or tool is needed")
    others = {key: value for key, value in message.items() if key not in keys and value is not None}
    text = _text(content, f"{place} ({keys[1]})") if content is not None or not others.get("tool_calls") else ""
    return {"role": ROLES[role.lower()] if sharegpt else role, "content": text, **({} if sharegpt else others)}


def _text(content: object, place: str) -> str:
    """A text, or the texts of its parts one after another."""
    if isinstance(content, str):
        return checked_text(content, place)
    if not isinstance(content, list):
        raise InputError(f"{place} holds {kind_of(content)}, but a text or a list of text parts is needed")
    return "".join(_part(part, f"{place}, part {number}") for number, part in enumerate(content, 1))


def _part(part: object, place: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else None
        raise InputError(f"{place} is {repr(kind) if kind else kind_of(part)}, but only text parts are read")
    return checked_text(text, place)
