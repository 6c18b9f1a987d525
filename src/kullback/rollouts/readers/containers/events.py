"""Server-sent events: what a server streamed, kept as text. One record with all events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kullback.errors import FileError
from kullback.rollouts.readers.containers.found import Broken, Found
from kullback.rollouts.readers.containers.opening import whole
from kullback.rollouts.readers.containers.parsing import parsed

DONE = "[DONE]"
"""What OpenAI's servers send last."""


def records(path: Path) -> Iterator[Found]:
    """One record, {"events": [...]}: the parsed data of every event, in order.

    Raises:
        FileError: the file cannot be read, or is too long to be held.
    """
    try:
        text = whole(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(f"{path} cannot be read as rollouts: it is not UTF-8") from None
    yield "", events_of(text)


def events_of(text: str) -> dict[str, object] | Broken:
    """The record of a stream's text, as it also stands in cassettes."""
    events = []
    for number, data in _data(text):
        try:
            events.append(parsed(data.encode("utf-8", "surrogatepass")))
        except ValueError as error:
            return Broken(f"the event that ends in line {number} cannot be read: {error}")
    return {"events": events} if events else Broken("there is no event with data in it")


def _data(text: str) -> Iterator[tuple[int, str]]:
    """The data of each event with the number of its last line; lines of one event are joined, as the standard says."""
    held: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("data:"):
            # Kept streams often lack the empty line between events: a line that begins a value begins an event.
            if held and line[5:].lstrip()[:1] in ("{", "["):
                yield number - 1, "\n".join(held)
                held = []
            if line[5:].strip() != DONE:
                held.append(line[5:].removeprefix(" "))
        elif not line.strip() and held:
            yield number - 1, "\n".join(held)
            held = []
