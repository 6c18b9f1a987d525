"""llama.cpp's server: it draws with log-probs and ids, and scores given tokens by drawing one after each prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kullback.errors import InputError
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling
from kullback.models.servers.client import Client, RefusedError
from kullback.models.servers.dialects import WHOLE, Continuation, Json
from kullback.rollouts.readers.checked import at, count, listed, mapping
from kullback.rollouts.readers.llama_server import drawn_tokens, finish_of
from kullback.rollouts.readers.responses import Drawn

ALL_WORDS = 1 << 24
"""More than any vocabulary has: the server gives those that there are."""

FORCED = 1e6
"""A bias on one token's logit beside which no other is drawn; log-probs are those before it."""


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp's own ``/completion``: log-probs are the model's own, whatever law it draws from.

    A prefix a place is sent, all in one request; what a slot has read before is kept, so each costs one token more. A
    token that is not among the words of its place is asked for by itself, drawn under a bias that leaves no other.
    """

    name: str = "llama.cpp"
    filtered: bool = False

    def scoring(self, model: str, tokens: Tokens, words: int, start: int = 1) -> tuple[str, Json]:
        """One token is drawn after every prefix, from the one before `start` on; the lists beside it are read."""
        prefixes = [list(tokens[:end]) for end in range(start, len(tokens))]
        return "/completion", {"prompt": prefixes, **_one(ALL_WORDS if words == WHOLE else max(words, 1))}

    def scored(self, answer: Json, tokens: Tokens, start: int = 1) -> list[Drawn]:
        """The words of each place; the log-prob of its own token is None where it is not among them."""
        found = answer.get("list")
        places = [answer] if found is None else [mapping(one, "an answer") for one in listed(found, "answers")]
        places = sorted(places, key=lambda one: count(one.get("index", 0), "index"))
        if len(places) != len(tokens) - start:
            raise InputError(f"{len(tokens) - start} prefixes were sent and {len(places)} answers came back")
        tops = [_drawn(one).top for one in places]
        unread = [Drawn(logprob=None, id=token) for token in tokens[:start]]
        read = [
            Drawn(logprob=top.get(token), id=token, top=top) for token, top in zip(tokens[start:], tops, strict=True)
        ]
        return unread + read

    def forcing(self, model: str, tokens: Tokens, place: int) -> tuple[str, Json]:
        """How to ask for the log-prob of one token that is not among the words of its place."""
        bias = [[int(tokens[place]), FORCED]]
        return "/completion", {"prompt": list(tokens[:place]), "logit_bias": bias, **_one(1)}

    def forced(self, answer: Json, token: int) -> float:
        """The log-prob of the token that had to be drawn."""
        one = _drawn(answer)
        if one.id != token or one.logprob is None:
            raise InputError(f"token {token} was asked for and {one.id} was drawn: it does not follow logit_bias")
        return one.logprob

    def drawing(self, model: str, prompt: Tokens, sampling: Sampling, *, most: int, seed: int) -> tuple[str, Json]:
        """The samplers are named in our order: by itself it cuts first and divides by the temperature last."""
        return "/completion", {
            "prompt": list(prompt),
            "n_predict": most,
            "n_probs": 1,
            "seed": seed,
            "return_tokens": True,
            **_law(sampling),
        }

    def drawn(self, answer: Json) -> Continuation:
        """`completion_probabilities`; the end token is among them."""
        if answer.get("truncated"):
            raise InputError("the prompt was cut to the server's context")
        finish = str(finish_of(answer))
        tokens = drawn_tokens(answer)
        return Continuation(tokens, {"eos": "stop", "limit": "length"}.get(finish, finish))


def context_of(client: Client) -> int | None:
    """The most tokens that one of its slots reads, where it says so."""
    try:
        found = at(client.get("/props"), "default_generation_settings", "n_ctx")
    except RefusedError:
        return None
    return found if isinstance(found, int) and found > 0 else None


def _one(words: int) -> dict[str, Any]:
    """One token, of the law that nothing cuts off, with so many words."""
    return {"n_predict": 1, "n_probs": words, "seed": 0, **_law(Sampling())}


def _law(sampling: Sampling) -> dict[str, Any]:
    return {
        "samplers": ["temperature", "top_k", "top_p"],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "mirostat": 0,
        "cache_prompt": True,
    }


def _drawn(answer: Mapping[str, Any]) -> Drawn:
    """The one token of an answer."""
    if answer.get("truncated"):
        raise InputError("a prefix was cut to the server's context")
    found = drawn_tokens(answer)
    if len(found) != 1:
        raise InputError(f"one token was asked for and {len(found)} came: {at(answer, 'stop_type')}")
    return found[0]
