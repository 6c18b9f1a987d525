"""Chat completions: OpenAI's, and those of vLLM, SGLang, llama.cpp and llama-cpp-python in its shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.checked import at, count, listed, mapping
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import (
    About,
    body_of,
    entries,
    events,
    ids_or_none,
    rollout_of,
    said,
    shared_id,
    with_ids,
)
from kullback.rollouts.readers.writers import law_of_response
from kullback.rollouts.record import Rollout


def recognises(record: Record, path: Path) -> bool:
    """Whether a choice has `logprobs.content`, in a response or in an event of its stream."""
    bodies = events(record) or [body_of(record)]
    choices = [choice for body in bodies for choice in _choices(body)]
    return any(isinstance(at(choice, "logprobs", "content"), list) for choice in choices)


def rollouts(record: Record) -> Iterator[Rollout]:
    """A rollout a choice."""
    stream = events(record)
    body = merged(stream) if stream else body_of(record)
    choices = listed(body.get("choices"), "choices")
    written = written_tokens(body) if len(choices) == 1 else None
    for place, one in enumerate(choices):
        yield _rollout(mapping(one, f"choices[{place}]"), f"choices[{place}]", body, written)


def _rollout(choice: Record, name: str, body: Record, written: int | None) -> Rollout:
    content = at(choice, "logprobs", "content")
    if not isinstance(content, list):
        raise InputError(f"{name} has no logprobs.content: ask the server with logprobs=true")
    shown = at(choice, "message", "content")
    about = replace(
        named(body, choice),
        text=shown if isinstance(shown, str) else None,
        written=written,
        prompt_tokens=ids_or_none(body.get("prompt_token_ids"), "prompt_token_ids"),
    )
    return rollout_of(
        with_ids(entries(content, f"{name}.logprobs.content"), choice.get("token_ids"), f"{name}.token_ids"), about
    )


def named(body: Record, choice: Record) -> About:
    """How a choice ended; its prompt, and which of the prompt's samples it is."""
    index = choice.get("index")
    return About(
        finish=choice.get("finish_reason"),
        prompt_id=shared_id(body, len(listed(body.get("choices"), "choices"))),
        sample=count(index, "index") if index is not None else None,
        extra=said(body, "model"),
    )


def written_tokens(body: Record) -> int | None:
    """How many tokens of the answer the server counts, without those of its reasoning, which it does not show."""
    written = at(body, "usage", "completion_tokens")
    if written is None:
        return None
    hidden = at(body, "usage", "completion_tokens_details", "reasoning_tokens") or 0
    return max(0, count(written, "usage.completion_tokens") - count(hidden, "reasoning_tokens"))


def merged(stream: list[Record]) -> Record:
    """The response whose pieces a stream sent."""
    whole: dict[str, object] = {}
    choices: dict[int, dict[str, object]] = {}
    for event in stream:
        whole.update(
            {key: event[key] for key in ("id", "model", "usage", "prompt_token_ids") if event.get(key) is not None}
        )
        for piece in _choices(event):
            index = count(piece.get("index", 0), "index")
            _add(choices.setdefault(index, {"index": index}), piece)
    return {**whole, "choices": [choices[index] for index in sorted(choices)]}


def _add(choice: dict[str, object], piece: Record) -> None:
    """One event's part of a choice."""
    content = at(piece, "logprobs", "content")
    if content is not None:
        before = at(choice, "logprobs", "content")
        choice["logprobs"] = {"content": [*(before if isinstance(before, list) else []), *listed(content, "content")]}
    if piece.get("token_ids") is not None:
        old = choice.get("token_ids")
        choice["token_ids"] = [*(old if isinstance(old, list) else []), *listed(piece["token_ids"], "token_ids")]
    shown = at(piece, "delta", "content")
    if isinstance(shown, str):
        choice["message"] = {"content": f"{at(choice, 'message', 'content') or ''}{shown}"}
    if piece.get("finish_reason") is not None:
        choice["finish_reason"] = piece["finish_reason"]


def _choices(body: Record) -> list[Record]:
    found = body.get("choices")
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def metadata(record: Record) -> Metadata:
    """The law by who wrote the response."""
    return law_of_response((events(record) or [body_of(record)])[0])


FORMAT = Format(
    name="openai-chat",
    written_by="OpenAI's chat API, and vLLM, SGLang, llama.cpp and llama-cpp-python in its shape",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
