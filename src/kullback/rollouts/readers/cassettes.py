"""Cassettes: requests to servers and their responses, as VCR.py and its kin record them in YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers import openai_chat, openai_completions, openai_responses
from kullback.rollouts.readers.fields import at, listed
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import events_of
from kullback.rollouts.record import Rollout

SHAPES = (openai_chat.FORMAT, openai_completions.FORMAT, openai_responses.FORMAT)


def recognises(record: Record, path: Path) -> bool:
    """Whether one of the recorded responses has log-probs."""
    return any(True for _ in _responses(record))


def rollouts(record: Record) -> Iterator[Rollout]:
    """Those of every response that has log-probs."""
    listed(record.get("interactions"), "interactions")
    for shape, body in _responses(record):
        yield from shape.rollouts(body)


def metadata(record: Record) -> Metadata:
    """That of the first response that has log-probs."""
    found = next(_responses(record), None)
    return Metadata() if found is None else found[0].metadata(found[1])


def _responses(record: Record) -> Iterator[tuple[Format, Record]]:
    """The responses that are of a shape that is read, with their shapes."""
    interactions = record.get("interactions")
    for one in interactions if isinstance(interactions, list) else ():
        body = _body(one)
        shape = next((shape for shape in SHAPES if shape.recognises(body, Path())), None)
        if shape is not None:
            yield shape, body


def _body(interaction: object) -> Record:
    """A recorded response, parsed."""
    parsed = at(interaction, "response", "parsed_body")
    if isinstance(parsed, dict):
        return parsed
    raw = at(interaction, "response", "body", "string") or at(interaction, "response", "body")
    raw = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    if not isinstance(raw, str):
        return {}
    try:
        whole = json.loads(raw)
    except (ValueError, RecursionError):
        return {"events": events_of(raw)}
    return whole if isinstance(whole, dict) else {}


FORMAT = Format(
    name="cassette",
    written_by="VCR.py, recording OpenAI's APIs",
    containers=("yaml",),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
