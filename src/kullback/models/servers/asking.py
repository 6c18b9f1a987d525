"""One question to a server, and its answer held against what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kullback.arrays import Float64
from kullback.errors import InputError, ModelError
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling
from kullback.models.servers.chosen import choosing, read_chosen
from kullback.models.servers.client import Client, RefusedError
from kullback.models.servers.dialects import Continuation, Dialect
from kullback.models.servers.llama_cpp import LlamaCpp
from kullback.rollouts.readers.checked import at
from kullback.rollouts.readers.responses import Drawn


@dataclass(frozen=True)
class Asker:
    """A client and the dialect that it speaks."""

    client: Client
    model: str
    dialect: Dialect

    def score(self, tokens: Tokens, words: int, start: int = 1) -> list[Drawn]:
        """A record a token, with a log-prob from `start` on.

        Raises:
            RefusedError: the server does not do this.
            ModelError: its answer cannot be right.
        """
        answer = self.client.post(*self.dialect.scoring(self.model, tokens, words, start))
        return self.read(answer, tokens, start)

    def read(self, answer: Mapping[str, Any], tokens: Tokens, start: int = 1) -> list[Drawn]:
        """An answer's records, held against the tokens that were sent."""
        if self.dialect.name == "vLLM" and at(answer, "choices", 0, "prompt_logprobs") is None:
            raise RefusedError("it has no prompt_logprobs", 400)
        with understood(self.client):
            if at(answer, "choices", 0, "prompt_logprobs", 0) is not None:
                raise InputError("the first place has log-probs, though nothing stands before it: places are shifted")
            found = self.dialect.scored(answer, tokens, start)
            if isinstance(self.dialect, LlamaCpp):
                found = [*self._completed(found, tokens, start, self.dialect)]
            _check(found, tokens, start)
        return found

    def _completed(self, found: Sequence[Drawn], tokens: Tokens, start: int, dialect: LlamaCpp) -> Iterator[Drawn]:
        """With the log-probs of tokens that were not among the words of their places."""
        for place, (one, token) in enumerate(zip(found, tokens, strict=True)):
            if place < start or one.logprob is not None:
                yield one
            else:
                answer = self.client.post(*dialect.forcing(self.model, tokens, place))
                yield replace(one, logprob=dialect.forced(answer, token))

    def choose(self, tokens: Tokens, words: Sequence[Sequence[int]], start: int) -> Float64:
        """Log-probs of so many chosen words at each place from `start` on, (places, words); raises as `score`."""
        answer = self.client.post(*choosing(self.model, tokens, words, start))
        with understood(self.client):
            return read_chosen(answer, (len(tokens) - start, len(words[0])))

    def draw(self, prompt: Tokens, sampling: Sampling, *, most: int, seed: int) -> Continuation:
        """A completion; raises as `score`."""
        answer = self.client.post(*self.dialect.drawing(self.model, prompt, sampling, most=most, seed=seed))
        return self.drawn(answer)

    def drawn(self, answer: Mapping[str, Any]) -> Continuation:
        """What an answer says was drawn."""
        with understood(self.client):
            return self.dialect.drawn(answer)


def _check(found: Sequence[Drawn], tokens: Tokens, start: int) -> None:
    """Hold that every token from `start` on has its own log-prob, and the first has none."""
    if len(found) != len(tokens):
        raise InputError(
            f"{len(tokens)} tokens were sent and {len(found)} came back: drawn tokens in place of the prompt's, or an "
            "end token left out"
        )
    for place, (one, token) in enumerate(zip(found, tokens, strict=True)):
        if one.id is not None and one.id != token:
            raise InputError(f"token {place} was {token}, and its log-prob is of {one.id}: places are shifted")
        if (one.logprob is None) != (place == 0) and not 0 < place < start:
            raise InputError(
                f"token {place} of {len(tokens)} has {'no' if place else 'a'} log-prob: places are shifted"
            )


@contextmanager
def understood(client: Client) -> Iterator[None]:
    """What a reader refuses, as a ModelError that names the server."""
    try:
        yield
    except InputError as error:
        raise ModelError(f"{client.address} cannot be believed: {error}{_advice(str(error))}") from None


def _advice(said: str) -> str:
    if "is at most 0" in said:
        return (
            "; numbers above 0 are logits (--logprobs-mode), or come of a head in bfloat16: vLLM takes "
            '--hf-overrides \'{"head_dtype":"float32"}\''
        )
    return ""
