"""SGLang's `/generate` with `return_logprob`, and its streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.checked import at, count, excerpt, listed, logprob, mapping, token_id
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.responses import About, Drawn, Word, events, rollout_of, said, top_of
from kullback.rollouts.readers.writers import drawn_by
from kullback.rollouts.record import Rollout

OUT, IN = "output_token_logprobs", "input_token_logprobs"


def recognises(record: Record, path: Path) -> bool:
    """Whether `meta_info` has log-probs of tokens, in a response or in an event of its stream."""
    return any(isinstance(at(one, "meta_info", key), list) for one in events(record) or [record] for key in (OUT, IN))


def rollouts(record: Record) -> Iterator[Rollout]:
    """The response, or every response of a stream; what was drawn, or the prompt where nothing was."""
    for response in _responses(events(record)) if events(record) else [record]:
        yield _rollout(response, mapping(response.get("meta_info"), "meta_info"))


def _rollout(response: Record, meta: Record) -> Rollout:
    drawn = triples(meta.get(OUT) or [], meta.get("output_top_logprobs"), OUT)
    prompt = triples(meta.get(IN) or [], meta.get("input_top_logprobs"), IN)
    shown, reason, written = response.get("text"), meta.get("finish_reason"), meta.get("completion_tokens")
    reason = reason.get("type") if isinstance(reason, dict) else reason
    named = said(meta, "weight_version")
    if not drawn:
        return rollout_of(prompt, About(extra={**named, "scored": "prompt"}))
    _check_ids(response.get("output_ids"), drawn)
    about = About(
        finish=reason,
        text=shown if isinstance(shown, str) else None,
        written=None if written is None else count(written, "completion_tokens"),
        prompt_tokens=_prompt(meta, prompt),
        extra=named,
    )
    return rollout_of(drawn, about)


def triples(values: object, tops: object, name: str) -> list[Drawn]:
    """[log-prob, id, text or null] a token; the first of a prompt has no log-prob."""
    places = listed(values, name)
    lists = listed(tops if tops is not None else [], f"the lists beside {name}")
    if lists and len(lists) != len(places):
        raise InputError(f"{name} has {len(places)} tokens and the lists beside it {len(lists)} places")
    return [_token(one, at(lists, i), f"{name}[{i}]", first=name == IN and i == 0) for i, one in enumerate(places)]


def _token(value: object, top: object, name: str, *, first: bool) -> Drawn:
    number, own, shown = _triple(value, name)
    return Drawn(
        logprob=None if first and number is None else logprob(number, f"the log-prob of {name}"),
        id=token_id(own, f"the id of {name}"),
        text=shown if isinstance(shown, str) else None,
        top=_top(top, f"the list beside {name}"),
    )


def _triple(value: object, name: str) -> Sequence[object]:
    found = listed(value, name)
    if len(found) != 3:
        raise InputError(f"{name} is {excerpt(value)}, but a log-prob, an id and a text or null are needed")
    return found


def _top(value: object, name: str) -> dict[Word, float]:
    words = [_triple(one, f"an entry of {name}") for one in listed(value if value is not None else [], name)]
    return top_of(((token_id(one[1], f"an id of {name}"), one[0]) for one in words), name)


def _prompt(meta: Record, prompt: list[Drawn]) -> list[int] | None:
    """The ids of the prompt, where they are all there; with logprob_start_len they are not."""
    ids = [token.id for token in prompt if token.id is not None]
    return ids if ids and meta.get("prompt_tokens") == len(ids) else None


def _check_ids(ids: object, drawn: list[Drawn]) -> None:
    if isinstance(ids, list) and ids != [token.id for token in drawn]:
        raise InputError(f"output_ids and {OUT} do not name the same tokens")


def _responses(stream: list[Record]) -> list[Record]:
    """The responses of a stream by their ids. A chunk holds all that came before it, unless the server sends pieces."""
    found: dict[object, dict[str, object]] = {}
    for event in stream:
        meta = event.get("meta_info")
        if isinstance(meta, dict):
            own = (str(meta.get("id")), str(event.get("index")))
            found[own] = _after(found.get(own), event, meta)
    return list(found.values())


def _after(before: Record | None, event: Record, meta: Record) -> dict[str, object]:
    """A response after one more chunk of it."""
    new = {**event, "meta_info": dict(meta)}
    if before is None:
        return new
    old, now = at(before, "meta_info", OUT), meta.get(OUT)
    old, now = (part if isinstance(part, list) else [] for part in (old, now))
    if now[: len(old)] == old:
        return new
    new["text"] = f"{before.get('text') or ''}{event.get('text') or ''}"
    new["meta_info"] = {
        **meta,
        IN: at(before, "meta_info", IN),
        "input_top_logprobs": at(before, "meta_info", "input_top_logprobs"),
    }
    for key in (OUT, "output_top_logprobs"):
        held = [at(one, "meta_info", key) for one in (before, event)]
        new["meta_info"][key] = [one for part in held if isinstance(part, list) for one in part] or None
    held = [at(one, "output_ids") for one in (before, event)]
    new["output_ids"] = [one for part in held if isinstance(part, list) for one in part] or None
    return new


def metadata(record: Record) -> Metadata:
    """The law is not known: SGLang gives three, by how it was started and asked."""
    return drawn_by("unknown")


FORMAT = Format(
    name="sglang",
    written_by="SGLang's /generate",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
