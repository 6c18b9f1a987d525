"""Cassettes: requests to servers and their responses, as VCR.py and its kin record them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers import openai_chat, openai_completions, openai_responses
from kullback.rollouts.readers.checked import at, listed
from kullback.rollouts.readers.containers import Broken
from kullback.rollouts.readers.containers.events import events_of
from kullback.rollouts.readers.containers.parsing import parsed
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.record import Rollout

SHAPES = (openai_chat.FORMAT, openai_completions.FORMAT, openai_responses.FORMAT)


def recognises(record: Record, path: Path) -> bool:
    """Whether one of the recorded responses has log-probs."""
    return any(True for _ in _responses(record))


def rollouts(record: Record) -> Iterator[Rollout]:
    """Those of every response that has log-probs.

    Raises:
        InputError: a recorded stream with an event that cannot be read.
    """
    for place, one in enumerate(listed(record.get("interactions"), "interactions")):
        body = _body(one)
        if isinstance(body, Broken):
            raise InputError(f"the stream of interactions[{place}] is broken: {body.reason}")
        shape = _shape(body)
        yield from () if shape is None else shape.rollouts(body)


def metadata(record: Record) -> Metadata:
    """That of the first response that has log-probs."""
    found = next(_responses(record), None)
    return Metadata() if found is None else found[0].metadata(found[1])


def _responses(record: Record) -> Iterator[tuple[Format, Record]]:
    """The responses that are of a shape that is read, with their shapes."""
    interactions = record.get("interactions")
    for one in interactions if isinstance(interactions, list) else ():
        body = _body(one)
        if not isinstance(body, Broken) and (shape := _shape(body)) is not None:
            yield shape, body


def _shape(body: Record) -> Format | None:
    return next((shape for shape in SHAPES if shape.recognises(body, Path())), None)


def _body(interaction: object) -> Record | Broken:
    """A recorded response, parsed; none of it where it is of another kind."""
    found = at(interaction, "response", "parsed_body")
    if isinstance(found, Mapping):
        return found
    raw = at(interaction, "response", "body", "string") or at(interaction, "response", "body")
    raw = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    if not isinstance(raw, str):
        return {}
    if re.match(r"(data|event|id|retry):", raw.lstrip()):
        return events_of(raw)
    try:
        whole = parsed(raw.encode("utf-8", "surrogatepass"))
    except ValueError:
        return {}
    return whole if isinstance(whole, Mapping) else {}


FORMAT = Format(
    name="cassette",
    written_by="VCR.py, recording OpenAI's APIs",
    containers=("yaml", "json"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
