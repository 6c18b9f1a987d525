"""Completions in OpenAI's older shape: vLLM's and llama-cpp-python's above all, with the prompt echoed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kullback.errors import InputError
from kullback.rollouts.readers.checked import at, count, listed, logprob, mapping
from kullback.rollouts.readers.format import Format, Record
from kullback.rollouts.readers.openai_chat import metadata, named, written_tokens
from kullback.rollouts.readers.responses import (
    About,
    Drawn,
    Word,
    body_of,
    events,
    ids_or_none,
    rollout_of,
    top_of,
    with_ids,
    word,
)
from kullback.rollouts.readers.writers import LLAMA_CPP_PYTHON, writer_of
from kullback.rollouts.record import Rollout

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def recognises(record: Record, path: Path) -> bool:
    """Whether a choice has `logprobs.token_logprobs`, in a response or in an event of its stream."""
    choices = [at(body, "choices", 0) for body in events(record) or [body_of(record)]]
    return any(isinstance(at(choice, "logprobs", "token_logprobs"), list) for choice in choices)


def rollouts(record: Record) -> Iterator[Rollout]:
    """A rollout a choice: of what was drawn, of an echoed prompt where nothing was, of both where it does not say."""
    stream = events(record)
    body = merged(stream) if stream else body_of(record)
    choices = listed(body.get("choices"), "choices")
    written = written_tokens(body) if len(choices) == 1 else None
    for place, one in enumerate(choices):
        yield _rollout(mapping(one, f"choices[{place}]"), f"choices[{place}]", body, written)


def _rollout(choice: Record, name: str, body: Record, written: int | None) -> Rollout:
    table = mapping(choice.get("logprobs"), f"{name}.logprobs")
    tokens = drawn_tokens(table, f"{name}.logprobs")
    shown, prompt = choice.get("text"), choice.get("prompt_token_ids", body.get("prompt_token_ids"))
    about = replace(
        named(body, choice),
        text=shown if isinstance(shown, str) else None,
        written=written,
        prompt_tokens=ids_or_none(prompt, f"{name}.prompt_token_ids"),
    )
    if not tokens or tokens[0].logprob is not None:
        return rollout_of(with_ids(tokens, choice.get("token_ids"), f"{name}.token_ids"), about)
    tokens, kind = _without_prompt(tokens, body, written, choice.get("finish_reason"))
    if kind:  # what the server says of the end is of the completion
        return rollout_of(tokens, About(prompt_id=about.prompt_id, text=about.text, extra={**about.extra, **kind}))
    return rollout_of(with_ids(tokens, choice.get("token_ids"), f"{name}.token_ids"), about)


def drawn_tokens(table: Record, name: str) -> list[Drawn]:
    """The lists side by side; the lists of likely words may be missing at places, or everywhere."""
    texts, numbers = (listed(table.get(key), f"{name}.{key}") for key in ("tokens", "token_logprobs"))
    tops = table.get("top_logprobs")
    tops = [None] * len(texts) if tops is None else listed(tops, f"{name}.top_logprobs")
    if not len(texts) == len(numbers) == len(tops):
        raise InputError(
            f"{name} has {len(texts)} tokens, {len(numbers)} token_logprobs and {len(tops)} top_logprobs, "
            "but each token needs one of each"
        )
    return [_token(one, texts, numbers, tops, name) for one in range(len(texts))]


def _token(at: int, texts: Sequence[object], numbers: Sequence[object], tops: Sequence[object], name: str) -> Drawn:
    shown = word(texts[at], f"{name}.tokens[{at}]")
    number = numbers[at]
    return Drawn(
        logprob=None if number is None and at == 0 else logprob(number, f"{name}.token_logprobs[{at}]"),
        id=shown if isinstance(shown, int) else None,
        text=shown if isinstance(shown, str) else None,
        top=_top(tops[at], f"{name}.top_logprobs[{at}]"),
    )


def _top(value: object, name: str) -> dict[Word, float]:
    if value is None:
        return {}
    return top_of(((word(key, name), number) for key, number in mapping(value, name).items()), name)


def _without_prompt(
    tokens: list[Drawn], body: Record, written: int | None, finish: object
) -> tuple[list[Drawn], dict[str, str]]:
    """The tokens after an echoed prompt, or the prompt's where it was to be scored, and which of the two."""
    prompt = at(body, "usage", "prompt_tokens")
    if written is None or prompt is None:
        return tokens, {"echo": "prompt and completion"}
    start = _end_of_prompt(len(tokens), count(prompt, "usage.prompt_tokens"), written, finish, body)
    if len(tokens) - start <= 1:  # how a text is scored: nothing drawn, or the one token that a server insists on
        return tokens[:start], {"scored": "prompt"}
    return tokens[start:], {}


def _end_of_prompt(length: int, prompt: int, written: int, finish: object, body: Record) -> int:
    """Where an echoed prompt ends.

    The end token may have no log-prob, and llama-cpp-python leaves a begin token out of the list: either makes the two
    counts disagree by one.
    """
    start = length - written
    if prompt == start or (prompt == start + 1 and writer_of(body) is LLAMA_CPP_PYTHON):
        return start
    if prompt == start + 1 and finish == "stop":
        return prompt
    raise InputError(
        f"usage counts {prompt} prompt and {written} completion tokens, but {length} have log-probs: it does not say "
        "where the echoed prompt ends"
    )


def merged(stream: list[Record]) -> Record:
    """The response whose pieces a stream sent."""
    whole: dict[str, object] = {}
    choices: dict[int, dict[str, object]] = {}
    for event in stream:
        whole.update({key: event[key] for key in ("id", "model", "usage") if event.get(key) is not None})
        for piece in listed(event.get("choices", []), "choices"):
            one = mapping(piece, "a choice")
            index = count(one.get("index", 0), "index")
            _add(choices.setdefault(index, {"index": index, "text": "", "logprobs": {}}), one)
    return {**whole, "choices": [choices[index] for index in sorted(choices)]}


def _add(choice: dict[str, object], piece: Record) -> None:
    table = choice["logprobs"]
    assert isinstance(table, dict)
    for key, more in (piece.get("logprobs") or {}).items() if isinstance(piece.get("logprobs"), Mapping) else ():
        if key in LISTS and more is not None:
            table[key] = [*table.get(key, []), *listed(more, key)]
    if piece.get("token_ids") is not None:
        old = choice.get("token_ids")
        choice["token_ids"] = [*(old if isinstance(old, list) else []), *listed(piece["token_ids"], "token_ids")]
    choice["text"] = f"{choice['text']}{piece.get('text') or ''}"
    if piece.get("finish_reason") is not None:
        choice["finish_reason"] = piece["finish_reason"]


FORMAT = Format(
    name="openai-completions",
    written_by="vLLM, llama-cpp-python and others in the shape of OpenAI's completions",
    containers=("json", "jsonl", "sse"),
    recognises=recognises,
    rollouts=rollouts,
    metadata=metadata,
)
