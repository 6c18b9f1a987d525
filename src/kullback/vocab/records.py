"""Top-k lists as servers send them: OpenAI's dicts, vLLM's dicts of ids, SGLang's triples."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kullback.errors import InputError, ShapeError, shown

Word = int | str
Listed = dict[Word, float]
"""One position: the log-prob of each word of the list, by its id or its text."""

AS_ID = "token_id:"
"""How vLLM writes an id where a token's text stands (--return-tokens-as-token-ids)."""


def is_record(x: Any) -> bool:
    """Whether x is a server's record of one position, or a list of them."""
    if isinstance(x, Mapping):
        return True
    if not isinstance(x, list | tuple) or not x:
        return False
    first = next((part for part in x if part is not None), None)
    return isinstance(first, Mapping) or _is_triple(first) or (isinstance(first, list) and is_record(first))


def tensors(
    policy: Any, reference: Any, tokens: Any = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor | None]:
    """Two servers' records, and the sampled tokens, as ids and log-probs with one numbering of words.

    Shorter lists are filled with words of log-prob −inf, whose ids are −1.

    Raises:
        InputError: a record that is none of the known kinds, or names a word twice; ids in one list and text in
            the other.
        ShapeError: lists of another number of positions.
    """
    lists = [_positions(x, name) for x, name in ((policy, "policy_topk"), (reference, "reference_topk"))]
    (q, single), (p, other) = lists
    if len(q) != len(p) or single != other:
        raise ShapeError(f"policy_topk has {len(q)} positions and reference_topk {len(p)}: both need the same")
    kinds = {type(word) for listed in (*q, *p) for word in listed}
    if len(kinds) > 1:
        raise InputError(
            "some words are named by id and others by text: ask both servers for ids (vLLM: return_tokens_as_token_ids)"
        )
    drawn = None if tokens is None else _drawn(tokens, single)
    number: dict[Hashable, int] = {}
    if kinds == {str}:
        for word in [*(w for listed in (*q, *p) for w in listed), *(drawn or ())]:
            number.setdefault(word, len(number))
    pair = [_as_tensors(listed, number, single) for listed in (q, p)]
    sampled = None
    odd = [word for word in drawn or () if isinstance(word, str) and word not in number]
    if odd:
        raise InputError(f"the token {shown(odd[0])} is text, but the lists name words by id: pass the ids of tokens")
    if drawn is not None:
        sampled = torch.tensor([number[word] if isinstance(word, str) else word for word in drawn])
        sampled = sampled[0] if single else sampled
    return pair[0], pair[1], sampled


def _is_triple(x: Any) -> bool:
    if not isinstance(x, tuple | list) or len(x) != 3:
        return False
    value, word, text = x
    return type(word) is int and word >= 0 and isinstance(value, float | None) and isinstance(text, str | None)


def _positions(x: Any, name: str) -> tuple[list[Listed], bool]:
    """The words of every position, and whether it is one position alone."""
    if isinstance(x, Mapping) and "content" in x:  # choices[0].logprobs of a chat completion
        x = x["content"]
    if isinstance(x, Mapping) and isinstance(x.get("top_logprobs"), Sequence) and "token" not in x:
        x = x["top_logprobs"]  # choices[0].logprobs of a completion
    one = isinstance(x, Mapping) or (isinstance(x, list | tuple) and bool(x) and _is_word(x[0]))
    parts = [x] if one else list(x)
    if not parts:
        raise InputError(f"{name} has no position")
    return [_listed(part, f"{name}[{i}]") for i, part in enumerate(parts)], one


def _is_word(x: Any) -> bool:
    """A triple, or a dict of one word that is not a whole position."""
    return _is_triple(x) or (isinstance(x, Mapping) and "logprob" in x and "top_logprobs" not in x)


def _listed(part: Any, where: str) -> Listed:
    if part is None:
        raise InputError(f"{where} is None: a server gives the first token no list, so leave the position out of both")
    if isinstance(part, Mapping) and "top_logprobs" in part:
        part = part["top_logprobs"]
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(part, Mapping):
        ids = all(not isinstance(value, float | int) for value in part.values())
        pairs = [(_id(word) if ids else word, _logprob(value)) for word, value in part.items()]
    elif isinstance(part, list | tuple) and all(_is_word(word) for word in part):
        pairs = [(w["token"], w["logprob"]) if isinstance(w, Mapping) else (w[1], w[0]) for w in part]
    else:
        raise InputError(
            f"{where} is a {type(part).__name__} that is no list of words: OpenAI's top_logprobs, vLLM's dict from "
            "ids to log-probs and SGLang's triples are read"
        )
    found: Listed = {}
    for word, value in pairs:
        name = _word(word, where)
        if name in found:
            raise InputError(f"{where} has the word {shown(name)} twice: each word of a list counts once")
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise InputError(f"{where} gives {shown(name)} the log-prob {shown(value)}, but a number is needed")
        found[name] = float(value)
    return found


def _logprob(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get("logprob")
    return value if isinstance(value, float | int) else getattr(value, "logprob", value)


def _id(word: Any) -> Any:
    return int(word) if isinstance(word, str) and word.isdigit() else word


def _word(word: Any, where: str) -> Word:
    if isinstance(word, str):
        return int(word[len(AS_ID) :]) if word.startswith(AS_ID) else word
    if isinstance(word, int) and not isinstance(word, bool):
        return int(word)
    raise InputError(f"{where} names a word {shown(word)}, but a word is an id or text")


def _drawn(tokens: Any, single: bool) -> list[Any]:
    if isinstance(tokens, str) or not hasattr(tokens, "__iter__") or getattr(tokens, "ndim", 1) == 0:
        tokens = [tokens]
    elif single:
        raise ShapeError("tokens is a list, but one position came: pass its one token")
    return [token.item() if hasattr(token, "item") else token for token in tokens]


def _as_tensors(lists: list[Listed], number: Mapping[Hashable, int], single: bool) -> tuple[Tensor, Tensor]:
    width = max(len(listed) for listed in lists)
    ids = torch.full((len(lists), width), -1)
    logs = torch.full((len(lists), width), float("-inf"), dtype=torch.float64)
    for i, listed in enumerate(lists):
        for j, (word, value) in enumerate(listed.items()):
            ids[i, j], logs[i, j] = number[word] if isinstance(word, str) else word, value
    return (ids[0], logs[0]) if single else (ids, logs)
