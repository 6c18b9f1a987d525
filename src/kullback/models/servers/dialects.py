"""How each kind of server is asked for log-probs of given tokens and for new ones, and how its answers are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kullback.errors import InputError
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling
from kullback.rollouts.readers.checked import at, listed, mapping
from kullback.rollouts.readers.openai_completions import drawn_tokens as completion_tokens
from kullback.rollouts.readers.responses import Drawn, ids_or_none, with_ids
from kullback.rollouts.readers.sglang import IN, OUT, triples
from kullback.rollouts.readers.vllm import prompt_tokens

Json = Mapping[str, Any]

WHOLE = -1
"""As a number of words: all there are."""


@dataclass(frozen=True)
class Continuation:
    """What a server drew: its tokens with their log-probs, and how it says that they ended."""

    tokens: Sequence[Drawn]
    finish: str


class Dialect(Protocol):
    """A kind of server."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def filtered(self) -> bool:
        """Whether its processed log-probs are those after top-k and top-p, and not only after the temperature."""
        ...

    def scoring(self, model: str, tokens: Tokens, words: int, start: int = 1) -> tuple[str, Json]:
        """Where and how to ask for log-probs of the tokens from `start` on, with so many likely words at each place."""
        ...

    def scored(self, answer: Json, tokens: Tokens, start: int = 1) -> list[Drawn]:
        """A record a token, the first without a log-prob, those before `start` with or without one.

        One from there on lacks it where the server lists likely words alone. Raises InputError where they are no such
        thing.
        """
        ...

    def drawing(self, model: str, prompt: Tokens, sampling: Sampling, *, most: int, seed: int) -> tuple[str, Json]:
        """Where and how to ask for one completion."""
        ...

    def drawn(self, answer: Json) -> Continuation:
        """What was drawn."""
        ...


def law_of(sampling: Sampling) -> dict[str, float]:
    """What is said of the law in every request: a server's own defaults may cut it off."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


@dataclass(frozen=True)
class VLLM:
    """vLLM: completions whose prompt is token ids, with ``prompt_logprobs``."""

    name: str = "vLLM"
    filtered: bool = True

    def scoring(self, model: str, tokens: Tokens, words: int, start: int = 1) -> tuple[str, Json]:
        """One token is drawn too, since none cannot be; it is not read."""
        law = {**law_of(Sampling()), "top_k": 0}
        return "completions", {
            "model": model,
            "prompt": list(tokens),
            "max_tokens": 1,
            "prompt_logprobs": words,
            **law,
        }

    def scored(self, answer: Json, tokens: Tokens, start: int = 1) -> list[Drawn]:
        """The dicts of `prompt_logprobs`."""
        dicts = at(answer, "choices", 0, "prompt_logprobs")
        return prompt_tokens(tokens, listed(dicts, "prompt_logprobs"))

    def drawing(self, model: str, prompt: Tokens, sampling: Sampling, *, most: int, seed: int) -> tuple[str, Json]:
        """Ids come with `return_token_ids`."""
        return "completions", {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": most,
            "logprobs": 1,
            "seed": seed,
            "return_token_ids": True,
            "top_k": sampling.top_k,
            **law_of(sampling),
        }

    def drawn(self, answer: Json) -> Continuation:
        """The first choice."""
        return completion_of(answer)


@dataclass(frozen=True)
class SGLang:
    """SGLang: ``/generate`` with ``return_logprob``."""

    name: str = "SGLang"
    filtered: bool = False

    def scoring(self, model: str, tokens: Tokens, words: int, start: int = 1) -> tuple[str, Json]:
        """From the first token on."""
        return "/generate", {
            "input_ids": list(tokens),
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": max(words, 0),
        }

    def scored(self, answer: Json, tokens: Tokens, start: int = 1) -> list[Drawn]:
        """`input_token_logprobs`, and the lists beside them."""
        meta = mapping(answer.get("meta_info"), "meta_info")
        return triples(meta.get(IN), meta.get("input_top_logprobs") or None, IN)

    def drawing(self, model: str, prompt: Tokens, sampling: Sampling, *, most: int, seed: int) -> tuple[str, Json]:
        """The seed is followed where the server is started with deterministic inference."""
        law = {**law_of(sampling), "top_k": sampling.top_k or -1, "max_new_tokens": most, "sampling_seed": seed}
        return "/generate", {
            "input_ids": list(prompt),
            "sampling_params": law,
            "return_logprob": True,
            "top_logprobs_num": 1,
        }

    def drawn(self, answer: Json) -> Continuation:
        """`output_token_logprobs`."""
        meta = mapping(answer.get("meta_info"), "meta_info")
        finish = at(meta, "finish_reason", "type")
        return Continuation(triples(meta.get(OUT), meta.get("output_top_logprobs") or None, OUT), str(finish))


@dataclass(frozen=True)
class Echo:
    """Completions that echo their prompt with log-probs, as OpenAI's API once did: tokens by their texts alone."""

    name: str = "completions with echo"
    filtered: bool = False

    def scoring(self, model: str, tokens: Tokens, words: int, start: int = 1) -> tuple[str, Json]:
        """Nothing is drawn, where the server can do that."""
        return "completions", {
            "model": model,
            "prompt": list(tokens),
            "max_tokens": 1,
            "echo": True,
            "logprobs": max(words, 1),
            **law_of(Sampling()),
        }

    def scored(self, answer: Json, tokens: Tokens, start: int = 1) -> list[Drawn]:
        """The echoed tokens: as many as were sent, and one that was drawn."""
        found = completion_tokens(mapping(at(answer, "choices", 0, "logprobs"), "logprobs"), "logprobs")
        if found and found[0].logprob is not None:
            raise InputError("the first token has a log-prob, so that these are drawn tokens in place of echoed ones")
        if len(found) not in (len(tokens), len(tokens) + 1):
            raise InputError(f"{len(tokens)} tokens were sent and {len(found)} came back")
        return found[: len(tokens)]

    def drawing(self, model: str, prompt: Tokens, sampling: Sampling, *, most: int, seed: int) -> tuple[str, Json]:
        """Without what vLLM adds to the API."""
        return "completions", {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": most,
            "logprobs": 1,
            "seed": seed,
            "top_k": sampling.top_k,
            **law_of(sampling),
        }

    def drawn(self, answer: Json) -> Continuation:
        """The first choice."""
        return completion_of(answer)


def completion_of(answer: Json) -> Continuation:
    """The first choice of OpenAI's completions, with ids where the server gives them."""
    choice = mapping(at(answer, "choices", 0), "choices[0]")
    ids = ids_or_none(choice.get("token_ids"), "token_ids")
    finish = str(choice.get("finish_reason"))
    if choice.get("logprobs") is None:
        raise InputError("a completion came without log-probs")
    found = completion_tokens(mapping(choice["logprobs"], "logprobs"), "logprobs")
    if ids is not None and len(ids) == len(found) + 1:
        raise InputError("the last token that was drawn has no log-prob: the end token's is left out")
    return Continuation(with_ids(found, ids, "token_ids"), finish)
