"""llama.cpp's server: `completion_probabilities` of `/completion`, in the shape of today and the one before 2025."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.checked import at, count, excerpt, listed, mapping, real, text, token_id
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import About, Drawn, Word, entry, events, ids_or_none, rollout_of, said, top_of
from kullback.rollouts.readers.writers import drawn_by
from kullback.rollouts.record import Rollout

TOKENS = "completion_probabilities"


def recognises(record: Record, path: Path) -> bool:
    """Whether there are `completion_probabilities`, in a response or in an event of its stream."""
    return any(isinstance(event.get(TOKENS), list) for event in events(record) or [record])


def rollouts(record: Record) -> Iterator[Rollout]:
    """The response, as one rollout."""
    stream = events(record)
    whole = _merged(stream) if stream else record
    tokens = drawn_tokens(whole)
    shown, written, slot = whole.get("content"), whole.get("tokens_predicted"), whole.get("id_slot")
    about = About(
        finish=finish_of(whole),
        text=shown if isinstance(shown, str) else None,
        written=None if written is None else count(written, "tokens_predicted"),
        prompt_tokens=ids_or_none(prompt, "prompt") if isinstance(prompt := whole.get("prompt"), list) else None,
        extra=said(whole, "model") | ({"id_slot": slot} if isinstance(slot, int) else {}),
    )
    yield rollout_of(tokens, about)


def drawn_tokens(whole: Record) -> list[Drawn]:
    """What a response says was drawn, with log-probs, ids and likely words."""
    return [_token(one, f"{TOKENS}[{i}]") for i, one in enumerate(listed(whole.get(TOKENS), TOKENS))]


def finish_of(whole: Record) -> object:
    """How it says that the completion ended."""
    if whole.get("stop_type") is not None:
        return whole["stop_type"]
    if whole.get("stopped_eos") or whole.get("stopped_word"):
        return "stop"
    return "limit" if whole.get("stopped_limit") else None


def _token(value: object, name: str) -> Drawn:
    one = mapping(value, name)
    if "probs" in one:
        return _of_probs(one, name)
    if "logprob" in one:
        return entry(one, name)
    return Drawn(
        logprob=_log(one.get("prob"), f"{name}.prob"),
        id=token_id(one.get("id"), f"{name}.id"),
        text=text(one.get("token"), f"{name}.token"),
        top=_probs(one.get("top_probs"), f"{name}.top_probs", "id"),
    )


def _of_probs(one: Record, name: str) -> Drawn:
    """The shape before 2025: what was drawn is a text, and its probability is the list's, if it is in the list."""
    shown = text(one.get("content"), f"{name}.content")
    top = _probs(one["probs"], f"{name}.probs", "tok_str")
    if shown not in top:
        raise InputError(
            f"{name} drew {excerpt(shown)}, which is not among the {len(top)} words whose probabilities it gives: "
            "ask the server with a larger n_probs"
        )
    return Drawn(logprob=top[shown], text=shown, top=top)


def _probs(value: object, name: str, key: str) -> dict[Word, float]:
    """The words of a place, with the logs of their probabilities; those of probability 0 are left out."""
    words = [mapping(one, f"an entry of {name}") for one in listed(value if value is not None else [], name)]
    some = [one for one in words if one.get("prob") != 0]
    named = [(token_id(one.get(key), key) if key == "id" else text(one.get(key), key)) for one in some]
    return top_of(zip(named, (_log(one.get("prob"), f"a probability of {name}") for one in some), strict=True), name)


def _log(value: object, name: str) -> float:
    probability = real(value, name)
    if not 0 < probability <= 1 + 1e-6:
        raise InputError(
            f"{name} is {probability:g}, but the probability of a token that was drawn is above 0 and at most 1"
        )
    return min(math.log(probability), 0.0)


def _merged(stream: list[Record]) -> Record:
    """The response whose tokens a stream sent."""
    last = at(stream, -1)
    return {
        **(last if isinstance(last, dict) else {}),
        "content": "".join(str(event.get("content") or "") for event in stream),
        TOKENS: [one for event in stream for one in listed(event.get(TOKENS) or [], TOKENS)],
    }


def metadata(record: Record) -> Metadata:
    """The law: log-probs are the model's, probabilities are of what the filters left."""
    first = next((one for event in events(record) or [record] if (one := at(event, TOKENS, 0))), None)
    return drawn_by("raw" if at(first, "logprob") is not None else "processed")


FORMAT = Format(
    name="llama-server",
    written_by="llama.cpp's server",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
