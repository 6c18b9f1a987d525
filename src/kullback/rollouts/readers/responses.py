"""What the responses of servers have in common: drawn tokens, the lists at their places, and how a sequence ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import cast

from kullback.errors import InputError
from kullback.rollouts.readers.checked import at, excerpt, listed, listed_logprob, logprob, mapping, text, token_id
from kullback.rollouts.readers.format import Record
from kullback.rollouts.record import Finish, Rollout

Word = int | str

FINISHES: Mapping[str, Finish] = {
    "stop": "end",
    "eos": "end",
    "eos_token": "end",
    "stop_sequence": "end",
    "word": "end",
    "tool_calls": "end",
    "function_call": "end",
    "end_turn": "end",
    "completed": "end",
    "length": "length",
    "limit": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "incomplete": "length",
}
"""What servers write, by what it means; anything else, such as an abort, is not known."""

AS_ID = re.compile(r"token_id:(\d{1,10})")
"""How vLLM writes an id where a token's text stands (--return-tokens-as-token-ids)."""

TEXTS = "token_texts"
"""The key in `Rollout.extra` of a hash of the tokens' texts, where no ids are known."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A token that was drawn: its log-prob, None where the server gave none; its id and text, where known."""

    logprob: float | None
    id: int | None = None
    text: str | None = None
    bytes: bytes | None = None
    top: Mapping[Word, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a response says of one sequence beside its tokens.

    Attributes:
        finish: as the server wrote it.
        text: of the completion.
        written: how many tokens the server counts; None where it does not say.
        prompt_tokens, sample, extra: as in `Rollout`.
        prompt_id: the response's id, where it answers its prompt several times; alone it says nothing of the prompt.
    """

    finish: object = None
    text: str | None = None
    written: int | None = None
    prompt_tokens: Sequence[int] | None = None
    prompt_id: int | str | None = None
    sample: int | None = None
    extra: Mapping[str, int | float | str] = field(default_factory=dict)


def rollout_of(tokens: Sequence[Drawn], about: About) -> Rollout:
    """The tokens as a rollout of what drew them.

    Raises:
        InputError: no token, ids for some tokens alone, or a gap among the log-probs after the first.
    """
    if not tokens:
        raise InputError("it holds no token with a log-prob")
    for place, token in enumerate(tokens):
        if token.logprob is None and place:
            raise InputError(f"token {place} has no log-prob, and only the first of an echoed prompt may lack one")
    finish = FINISHES.get(about.finish, "unknown") if isinstance(about.finish, str) else "unknown"
    unscored = max(0, (about.written or 0) - len(tokens))
    return Rollout(
        behavior_logprobs=[token.logprob for token in tokens],  # type: ignore[arg-type]  # None is nan, and masked
        tokens=_ids(tokens),
        mask=None if tokens[0].logprob is not None else [False, *[True] * (len(tokens) - 1)],  # type: ignore[arg-type]
        prompt_tokens=about.prompt_tokens,
        # By its tokens a prompt is known again in another response; by the response's id its choices alone are.
        prompt_id=None if about.prompt_tokens else about.prompt_id,
        sample=about.sample,
        finish=finish,
        missing_end=finish == "end" and (unscored > 0 or _ends_in_text(tokens, about.text)),
        text=about.text,
        top=_tops(tokens),
        extra={**about.extra, **_texts(tokens), **({"tokens_without_logprob": unscored} if unscored else {})},
    )


def _ids(tokens: Sequence[Drawn]) -> list[int] | None:
    ids = [token.id for token in tokens if token.id is not None]
    if ids and len(ids) < len(tokens):
        raise InputError(f"{len(ids)} of {len(tokens)} tokens have an id, but all need one, or none")
    return ids or None


def _tops(tokens: Sequence[Drawn]) -> Sequence[Mapping[int, float]] | None:
    if not any(token.top for token in tokens):
        return None
    kinds = {type(word) for token in tokens for word in token.top}
    if len(kinds) > 1:
        raise InputError("some words of its lists are named by id and others by text, but one kind is needed")
    return cast(list[Mapping[int, float]], [token.top for token in tokens])  # or all of texts


def _texts(tokens: Sequence[Drawn]) -> dict[str, str]:
    """A hash of the tokens' texts, by which two responses without ids are known to hold the same tokens."""
    if any(token.id is not None or (token.bytes is None and token.text is None) for token in tokens):
        return {}
    hashed = blake2b(digest_size=16)
    for token in tokens:
        raw = token.bytes if token.bytes is not None else (token.text or "").encode("utf-8", "surrogatepass")
        hashed.update(len(raw).to_bytes(8, "little") + raw)
    return {TEXTS: hashed.hexdigest()}


def _ends_in_text(tokens: Sequence[Drawn], whole: str | None) -> bool:
    """Whether the last token is a piece of the text: an end token is not, so that it has no log-prob here."""
    last = tokens[-1].text
    return bool(whole and last) and str(whole).endswith(str(last))


def word(value: object, name: str) -> Word:
    """A word of a list: an id where it is written as one, else its text.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, int):
        return token_id(value, name)
    found = AS_ID.fullmatch(text(value, name))
    return token_id(int(found[1]), name) if found else str(value)


def top_of(pairs: Iterable[tuple[Word, object]], name: str) -> dict[Word, float]:
    """The words of a place with their log-probs.

    Words of one text that are several tokens, and words without mass, are left out: the first cannot be matched with
    another server's, the second stand where the server knows nothing.
    """
    known = [(key, listed_logprob(value, f"the log-prob of {excerpt(key)} in {name}")) for key, value in pairs]
    times = Counter(key for key, _ in known)
    return {key: value for key, value in known if value is not None and times[key] == 1}


def entries(content: object, name: str) -> list[Drawn]:
    """OpenAI's list of tokens, each with `token`, `logprob`, `bytes` and `top_logprobs`; llama.cpp adds an `id`."""
    return [entry(one, f"{name}[{place}]") for place, one in enumerate(listed(content, name))]


def entry(value: object, name: str) -> Drawn:
    """One of OpenAI's tokens."""
    one = mapping(value, name)
    shown = word(one.get("token"), f"{name}.token")
    own = one.get("id")
    return Drawn(
        logprob=logprob(one.get("logprob"), f"{name}.logprob"),
        id=token_id(own, f"{name}.id") if own is not None else shown if isinstance(shown, int) else None,
        text=shown if isinstance(shown, str) else None,
        bytes=_bytes(one.get("bytes"), f"{name}.bytes"),
        top=top_of(_listed_words(one.get("top_logprobs"), f"{name}.top_logprobs"), f"{name}.top_logprobs"),
    )


def _listed_words(value: object, name: str) -> Iterator[tuple[Word, object]]:
    for one in listed(value if value is not None else [], name):
        record = mapping(one, f"an entry of {name}")
        own = record.get("id")
        yield (word(own if own is not None else record.get("token"), f"a word of {name}"), record.get("logprob"))


def _bytes(value: object, name: str) -> bytes | None:
    if value is None:
        return None
    numbers = listed(value, name)
    if not all(isinstance(number, int) and 0 <= number < 256 for number in numbers):
        raise InputError(f"{name} is {excerpt(value)}, but bytes are whole numbers from 0 to 255")
    return bytes(number for number in numbers if isinstance(number, int))


def with_ids(tokens: Sequence[Drawn], ids: object, name: str) -> list[Drawn]:
    """The tokens with the ids that stand in a list of their own, if there is one.

    Raises:
        InputError: more or fewer ids than tokens.
    """
    if ids is None:
        return list(tokens)
    numbers = [token_id(value, f"{name}[{place}]") for place, value in enumerate(listed(ids, name))]
    if len(numbers) != len(tokens):
        raise InputError(f"{name} has {len(numbers)} ids, but {len(tokens)} tokens have log-probs")
    return [
        Drawn(logprob=token.logprob, id=number, text=token.text, bytes=token.bytes, top=token.top)
        for token, number in zip(tokens, numbers, strict=True)
    ]


def ids_or_none(value: object, name: str) -> list[int] | None:
    """A list of ids, if there is one."""
    if value is None:
        return None
    return [token_id(one, f"{name}[{place}]") for place, one in enumerate(listed(value, name))]


def vllm_dict(value: object, name: str) -> list[tuple[int, float | None, str | None]]:
    """vLLM's dict of a place, in its order: (id, log-prob or None, text), of ids to numbers or to Logprob records."""
    words = []
    for key, one in mapping(value, name).items():
        number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 11 else key
        record = one if isinstance(one, Mapping) else {"logprob": one}
        shown = record.get("decoded_token")
        found = listed_logprob(record.get("logprob"), f"the log-prob of {key} in {name}")
        words.append((token_id(number, f"a key of {name}"), found, shown if isinstance(shown, str) else None))
    return words


def body_of(record: Record) -> Record:
    """A response in what it was kept in: a line of a batch (`response.body`), or a log of `request` and `response`."""
    for path in (("response", "body"), ("response",), ("body",)):
        inner = at(record, *path)
        if isinstance(inner, Mapping) and ("choices" in inner or "output" in inner):
            return inner
    return record


def shared_id(response: Record, choices: int, *names: str) -> str | None:
    """The id of a response by which its choices are known to be of one prompt; None where it has one alone."""
    own = next((found for name in names or ("id",) if isinstance(found := response.get(name), str)), None)
    return own if choices > 1 else None


def said(record: Record, *names: str) -> dict[str, int | float | str]:
    """Numbers and texts that a record says of itself, by its names."""
    found = {name: at(record, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, int | float | str)}


def events(record: Record) -> list[Record]:
    """The events of a stream that are objects."""
    found = record.get("events")
    return [event for event in found if isinstance(event, Mapping)] if isinstance(found, list | tuple) else []
