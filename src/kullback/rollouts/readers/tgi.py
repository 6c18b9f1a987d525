"""Text Generation Inference: `/generate` with details, its stream, and the other sequences of `best_of`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from kullback.rollouts.metadata import Law, Metadata
from kullback.rollouts.readers.checked import at, count, listed, logprob, mapping, token_id
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import About, Drawn, Word, events, rollout_of, top_of
from kullback.rollouts.readers.writers import drawn_by
from kullback.rollouts.record import Rollout


def recognises(record: Record, path: Path) -> bool:
    """Whether `details.tokens` has tokens with ids and log-probs, or an event of a stream one token."""
    tokens = at(record, "details", "tokens")
    first = at(tokens, 0) if isinstance(tokens, list) else next((at(event, "token") for event in events(record)), None)
    return (
        at(first, "id") is not None and isinstance(at(first, "logprob"), int | float) and at(first, "text") is not None
    )


def rollouts(record: Record) -> Iterator[Rollout]:
    """The sequence, and those it was the best of."""
    stream = events(record)
    whole = _merged(stream) if stream else record
    details = mapping(whole.get("details"), "details")
    others = listed(details.get("best_of_sequences") or [], "details.best_of_sequences")
    yield _rollout(details, "details", whole.get("generated_text"), 0 if others else None)
    for place, other in enumerate(others):
        name = f"details.best_of_sequences[{place}]"
        yield _rollout(mapping(other, name), name, at(other, "generated_text"), place + 1)


def _rollout(details: Record, name: str, text: object, sample: int | None) -> Rollout:
    tokens = listed(details.get("tokens"), f"{name}.tokens")
    tops = details.get("top_tokens")
    tops = [] if tops is None else listed(tops, f"{name}.top_tokens")
    written = details.get("generated_tokens")
    about = About(
        finish=details.get("finish_reason"),
        text=text if isinstance(text, str) else None,
        written=None if written is None else count(written, f"{name}.generated_tokens"),
        prompt_tokens=_prompt(details.get("prefill"), f"{name}.prefill"),
        sample=sample,
    )
    return rollout_of([_token(one, at(tops, i), f"{name}.tokens[{i}]") for i, one in enumerate(tokens)], about)


def _token(value: object, top: object, name: str) -> Drawn:
    one = mapping(value, name)
    shown = one.get("text")
    return Drawn(
        logprob=logprob(one.get("logprob"), f"{name}.logprob"),
        id=token_id(one.get("id"), f"{name}.id"),
        # What is special stands in no text, so that an end token is known for one.
        text=shown if isinstance(shown, str) and not one.get("special") else None,
        top=_top(top, f"the top_tokens of {name}"),
    )


def _top(value: object, name: str) -> dict[Word, float]:
    words = [mapping(one, f"an entry of {name}") for one in listed(value if value is not None else [], name)]
    return top_of(((token_id(one.get("id"), f"an id of {name}"), one.get("logprob")) for one in words), name)


def _prompt(prefill: object, name: str) -> list[int] | None:
    """The ids of the prompt, which stand with their log-probs where the server was asked for them."""
    if not prefill:
        return None
    return [token_id(at(one, "id"), f"{name}[{place}].id") for place, one in enumerate(listed(prefill, name))]


def _merged(stream: list[Record]) -> Record:
    """The response whose tokens a stream sent one by one."""
    sent = [event for event in stream if event.get("token") is not None]
    last = at(sent, -1)
    details = at(last, "details")
    tops = [event.get("top_tokens") for event in sent]
    return {
        "generated_text": at(last, "generated_text"),
        "details": {
            **(details if isinstance(details, dict) else {}),
            "tokens": [event["token"] for event in sent],
            "top_tokens": tops if any(tops) else None,
        },
    }


def metadata(record: Record) -> Metadata:
    """The law: of what the filters left where tokens have exactly probability 1 too often, else not known.

    TGI gives the log-probs of what it samples from. Half precision makes some of them exactly 0, but not half of all,
    and not that of an end token, which only a grammar forces.
    """
    details = at(_merged(events(record)) if events(record) else record, "details")
    tokens = at(details, "tokens")
    tokens = tokens if isinstance(tokens, list) else []
    certain = [at(token, "logprob") == 0 for token in tokens]
    forced = bool(certain and certain[-1] and at(tokens, -1, "special"))
    law: Law = "processed" if forced or 2 * sum(certain) > len(certain) else "unknown"
    # Its answer names the seed of what it sampled, and null where it took the likeliest token.
    greedy = isinstance(details, Mapping) and "seed" in details and details["seed"] is None
    return drawn_by(law, sampling={"temperature": 0.0} if greedy else None)


FORMAT = Format(
    name="tgi",
    written_by="Hugging Face's Text Generation Inference",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
