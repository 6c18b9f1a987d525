"""OpenAI's Responses API: the object, and the events of a stream, whose log-probs have all their digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

from kullback.errors import InputError
from kullback.rollouts.metadata import Law, Metadata
from kullback.rollouts.readers.checked import at, count, mapping
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import About, Drawn, body_of, entries, events, rollout_of, said
from kullback.rollouts.readers.writers import drawn_by
from kullback.rollouts.record import Rollout

DELTA = "response.output_text.delta"


def recognises(record: Record, path: Path) -> bool:
    """Whether a part of the output has `logprobs`, in a response or in an event of its stream."""
    stream = events(record)
    if stream:
        return any(event.get("type") == DELTA and event.get("logprobs") for event in stream)
    return any(part.get("logprobs") for _, part in _parts(body_of(record)))


def rollouts(record: Record) -> Iterator[Rollout]:
    """The response, as one rollout: all texts of its output in their order."""
    stream = events(record)
    body = _last_response(stream) if stream else body_of(record)
    tokens = [token for name, part in _parts(body) for token in _scored(part, name)]
    if stream:
        deltas = [token for event in stream for token in _delta(event)]
        if tokens and len(deltas) != len(tokens):
            raise InputError(f"its deltas have {len(deltas)} log-probs and its whole response {len(tokens)}")
        tokens = deltas
    yield rollout_of(tokens, _about(body, stream))


def _scored(part: Record, name: str) -> Sequence[Drawn]:
    if not part.get("logprobs"):
        raise InputError(f'{name} has no logprobs: ask with include=["message.output_text.logprobs"]')
    return entries(part["logprobs"], f"{name}.logprobs")


def _delta(event: Record) -> list[Drawn]:
    if event.get("type") != DELTA:
        return []
    return entries(event.get("logprobs") or [], "the logprobs of a delta")


def _parts(body: Record) -> Iterator[tuple[str, Record]]:
    """The texts of the output, by their names."""
    output = body.get("output")
    for i, item in enumerate(output if isinstance(output, list) else []):
        content = at(item, "content")
        for j, part in enumerate(content if isinstance(content, list) else []):
            if at(part, "type") == "output_text":
                yield f"output[{i}].content[{j}]", mapping(part, "part")


def _last_response(stream: list[Record]) -> Record:
    """The response as the last event that holds it has it."""
    held = [event["response"] for event in stream if isinstance(event.get("response"), dict)]
    return held[-1] if held else {}


def _about(body: Record, stream: list[Record]) -> About:
    shown = "".join(str(part.get("text") or "") for _, part in _parts(body))
    if stream and not shown:
        shown = "".join(str(event.get("delta") or "") for event in stream if event.get("type") == DELTA)
    reason = at(body, "incomplete_details", "reason")
    return About(
        finish=reason if body.get("status") == "incomplete" else body.get("status"),
        text=shown,
        written=_written(body),
        extra=said(body, "model"),
    )


def _written(body: Record) -> int | None:
    """How many tokens of output the server counts, without those of its reasoning."""
    written = at(body, "usage", "output_tokens")
    if written is None:
        return None
    hidden = at(body, "usage", "output_tokens_details", "reasoning_tokens") or 0
    return max(0, count(written, "usage.output_tokens") - count(hidden, "reasoning_tokens"))


def metadata(record: Record) -> Metadata:
    """The law by the settings that a response repeats: at temperature 1 without a filter or schema, it is raw."""
    stream = events(record)
    body = _last_response(stream) if stream else body_of(record)
    settings = {name: body.get(name) for name in ("temperature", "top_p")}
    free = at(body, "text", "format", "type") in ("text", None)
    law: Law = "raw" if free and all(value == 1 for value in settings.values()) else "unknown"
    sampling = {name: float(value) for name, value in settings.items() if _is_setting(value)}
    model = body.get("model")
    return drawn_by(law, model if isinstance(model, str) else None, sampling)


def _is_setting(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < 1000


FORMAT = Format(
    name="openai-responses",
    written_by="OpenAI's Responses API",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
