"""A model behind a server, as what samples and what scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kullback.arrays import Float64
from kullback.errors import ModelError
from kullback.models.protocols import Completion, NextLogits, Prompt, Tokens
from kullback.models.randomness import Randomness
from kullback.models.sampling import RAW, Sampling
from kullback.models.servers.address import address_of
from kullback.models.servers.asking import Asker
from kullback.models.servers.capabilities import Capabilities
from kullback.models.servers.client import Client
from kullback.models.servers.dialects import VLLM, Continuation
from kullback.models.servers.probing import probed
from kullback.rollouts.readers.responses import Drawn

if TYPE_CHECKING:
    import torch

MOST_NUMBERS = 1 << 22
"""Log-probs of one request at most: a longer one has ended servers, whose memory holds several copies of them."""

AT_ONCE = 1 << 23
"""Log-probs of all requests that are under way at a time."""


@dataclass(frozen=True)
class ServerModel:
    """A model behind a server that gives log-probs of given tokens, or draws, or both.

    Attributes:
        name: what the user called it.
        client: who asks.
        capabilities: what was seen when it was first asked.
        tokenizer: what reads texts: the server's own, or another model's; None where that is still to be taken.
        notes: sentences that a reader of its numbers should know.
    """

    name: str
    client: Client
    capabilities: Capabilities
    tokenizer: Any = None
    notes: tuple[str, ...] = ()

    @property
    def server(self) -> Mapping[str, Any]:
        """What is written down of where the numbers come from."""
        return {"url": self.client.address.base, "model": self.capabilities.model, **self.capabilities.settings}

    @property
    def context(self) -> int:
        """The most tokens it can read, prompt and completion together."""
        return self.capabilities.context

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Token ids by token, where the tokenizer is another model's; a server does not say."""
        own = getattr(self.tokenizer, "get_vocab", None)
        return {} if own is None else dict(own())

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a sequence, as far as they were seen."""
        own = getattr(self.tokenizer, "eos_token_id", None)
        return tuple(dict.fromkeys((*self.capabilities.ends, *(() if own is None else (int(own),)))))

    @property
    def mixes_lengths(self) -> bool:
        """Prompts of different lengths share a batch: each is a request of its own."""
        return True

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, by the server's tokenizer or the one that was taken."""
        if hasattr(self.tokenizer, "encode") and not hasattr(self.tokenizer, "get_vocab"):
            return cast(list[int], self.tokenizer.encode(prompt))
        from kullback.models.language_model import LanguageModel

        return LanguageModel(self.name, None, self.tokenizer).encode(prompt)

    def decode(self, tokens: Tokens, *, special: bool = True) -> str:
        """The text of some tokens."""
        if hasattr(self.tokenizer, "get_vocab"):
            return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special))
        return str(self.tokenizer.decode(tokens, special=special))

    def sample(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        randomness: Randomness,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """One completion for each prompt, with a seed of its own; see `kullback.models.protocols.Sampler`.

        Raises:
            ModelError: it does not say what it drew, or with log-probs of which law.
        """
        own = self._check_law(sampling)
        asker = Asker(self.client, self.capabilities.model, self.capabilities.dialect or VLLM())
        seeds = [int(u * (1 << 31)) for u in next(randomness.uniforms(len(prompts)))]
        asked = [
            asker.dialect.drawing(asker.model, prompt, sampling, most=max_new_tokens, seed=seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        found = []
        for answer in self.client.post_all(asked[0][0], [body for _, body in asked]):
            found.append(self._completion(asker.drawn(answer), max_new_tokens))
            on_tokens(len(found[-1].tokens))
        if own:
            return found
        scored = self.logprobs(prompts, [one.tokens for one in found], sampling, drawn=True)
        return [Completion(one.tokens, logprobs, one.finish) for one, logprobs in zip(found, scored, strict=True)]

    def _check_law(self, sampling: Sampling) -> bool:
        """Whether the log-probs that come with drawn tokens are those of the law that is asked for."""
        can = self.capabilities
        if not can.draws:
            raise ModelError(f"{self.name} does not say by id and log-prob which tokens it drew: pass another sampler")
        if sampling.vocab is not None and (can.vocab is None or sampling.vocab < can.vocab):
            raise ModelError(
                f"{self.name} cannot be kept to the {sampling.vocab:,} tokens that both models have: pass another "
                "sampler"
            )
        filtered = can.dialect is None or can.dialect.filtered or not sampling.truncates
        if sampling.raw or (can.law == "processed" and filtered):
            return True
        if can.vocab is None:
            raise ModelError(
                f"{self.name} gives {can.law} log-probs, and those of tokens drawn at this temperature, top-p or top-k "
                "cannot be had from them: start it with processed log-probs (vLLM: --logprobs-mode "
                "processed_logprobs), or draw with temperature 1, top-p 1 and top-k 0"
            )
        return False

    def _completion(self, one: Continuation, most: int) -> Completion:
        drawn, finish = one.tokens, one.finish
        tokens = [int(token.id) for token in drawn if token.id is not None]
        if len(tokens) != len(drawn) or not tokens:
            raise ModelError(f"{self.name} drew tokens of which it does not say the ids: pass another sampler")
        if finish not in ("stop", "length"):
            raise ModelError(f"{self.name} ended a completion with {finish!r}: neither an end token nor a full length")
        ends = self.end_tokens
        if finish == "stop" and ends and tokens[-1] not in ends:
            raise ModelError(
                f"{self.name} ended a completion on the token {tokens[-1]}, which is no end token ({ends}): the end "
                "token's log-prob is missing, or the server stops at a text (stop, stop_token_ids)"
            )
        if finish == "length" and len(tokens) < most:
            raise ModelError(f"{self.name} cut a completion after {len(tokens)} tokens of {most}: its context is full")
        logprobs = np.asarray([token.logprob for token in drawn], dtype=np.float64)
        return Completion(tokens, logprobs, "end" if finish == "stop" else "length")

    def logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling = RAW, *, drawn: bool = False
    ) -> list[Float64]:
        """Log-probs of the completions' tokens; see `kullback.models.protocols.Scorer`.

        Raises:
            ModelError: it does not score given tokens, or not under this law.
        """
        self._check_raw(sampling)
        rows = self.scored(prompts, completions, words=min(1, self.capabilities.words))
        return [np.asarray([one.logprob for one in row], dtype=np.float64) for row in rows]

    def listed(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[list[Drawn]]:
        """The completions' tokens with log-probs and the likely words of their places; raises as `logprobs`."""
        return self.scored(prompts, completions, words=self.capabilities.words)

    def chosen(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], words: Sequence[Sequence[Sequence[int]]]
    ) -> list[Float64]:
        """Log-probs of chosen words at every token of the completions, for each (tokens, words).

        Raises:
            ModelError: what came is no such table.
        """
        asker = Asker(self.client, self.capabilities.model, self.capabilities.dialect or VLLM())
        return [
            asker.choose([*prompt, *completion], several, max(1, len(prompt)))
            for prompt, completion, several in zip(prompts, completions, words, strict=True)
        ]

    def _check_raw(self, sampling: Sampling) -> None:
        if not sampling.raw:
            raise ModelError(
                f"{self.name} gives no whole distributions, so that log-probs of given tokens are its own alone: "
                "score with temperature 1, top-p 1 and top-k 0"
            )

    def scored(self, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, words: int) -> list[list[Drawn]]:
        """The records of the completions' tokens, with so many words each."""
        dialect = self.capabilities.dialect
        if dialect is None:
            raise ModelError(
                f"{self.name} gives no log-probs of given tokens: it can draw (sampler=), and what scores is a local "
                "model or a server of vLLM or SGLang"
            )
        asker = Asker(self.client, self.capabilities.model, dialect)
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        numbers = max(map(len, rows)) * (self.capabilities.vocab or max(words, 1))
        if numbers > MOST_NUMBERS:
            raise ModelError(
                f"{self.name} would be asked for {numbers:,} log-probs at once, and more than {MOST_NUMBERS:,} have "
                "ended servers: score shorter sequences"
            )
        starts = [max(1, len(prompt)) for prompt in prompts]
        asked = [dialect.scoring(asker.model, row, words, start) for row, start in zip(rows, starts, strict=True)]
        answers = self.client.post_all(asked[0][0], [body for _, body in asked], at_a_time=AT_ONCE // numbers)
        read = (asker.read(answer, row, start) for answer, row, start in zip(answers, rows, starts, strict=True))
        return [one[len(prompt) :] for one, prompt in zip(read, prompts, strict=True)]


@dataclass(frozen=True)
class ServerDistribution(ServerModel):
    """A model behind a server that gives whole next-token distributions, so that token KLs are exact."""

    @property
    def vocab(self) -> int:
        """Log-probs it returns for a token."""
        return self.capabilities.vocab or 0

    @property
    def dtype(self) -> str:
        """In which its numbers came; that of its weights is the server's own affair."""
        rounding = self.capabilities.rounding
        return "float32" if rounding is None else rounding.words

    @property
    def device(self) -> torch.device:
        """Where its numbers are once they came."""
        import torch

        return torch.device("cpu")

    def logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling = RAW, *, drawn: bool = False
    ) -> list[Float64]:
        """Log-probs of the completions' tokens under any law, made of whole distributions."""
        if sampling.raw and sampling.vocab is None:
            return super().logprobs(prompts, completions, sampling, drawn=drawn)
        import torch

        from kullback.models.scoring import by_row

        tokens = torch.tensor([t for c in completions for t in c])
        law = sampling.logprobs(self._matrix(prompts, completions), tokens if drawn else None)
        return by_row(law.gather(-1, tokens[:, None])[:, 0].double().numpy(), completions)

    def next_logits(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> NextLogits:
        """Log-probs of the whole vocabulary at every token, (tokens, vocab), float32."""
        return cast(NextLogits, self._matrix(prompts, completions))

    def _matrix(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> torch.Tensor:
        import torch

        rows = self.scored(prompts, completions, words=self.capabilities.words)
        places = [one for row in rows for one in row]
        found = np.full((len(places), self.vocab), -np.inf, dtype=np.float32)
        if short := next((one for one in places if len(one.top) != self.vocab), None):
            raise ModelError(
                f"{self.name} listed {len(short.top):,} words of a place where it had {self.vocab:,}: they are no "
                "whole distribution"
            )
        for line, one in zip(found, places, strict=True):
            line[np.fromiter(one.top, dtype=np.int64, count=len(one.top))] = list(one.top.values())
        mass = np.exp(found.astype(np.float64)).sum(axis=1)
        worst = mass[np.abs(mass - 1.0).argmax()] if len(places) else 1.0
        if abs(worst - 1.0) > 1e-2:
            raise ModelError(
                f"{self.name} gave a place log-probs whose probabilities add up to {worst:.3g}, not to 1: they are no "
                "whole distribution"
            )
        return torch.from_numpy(found)


def connect(
    name: str, *, timeout: float = 120.0, attempts: int = 5, pause: float = 0.5, concurrency: int = 8
) -> ServerModel:
    """A model behind a server of OpenAI's API, vLLM or SGLang, with what it can do found out.

    A key is read from the environment variable ``KULLBACK_API_KEY`` alone, and is neither shown nor written.

    Args:
        name: ``http://host:port/v1#MODEL``; without ``#MODEL`` where the server has one model.
        timeout: seconds that one answer may take.
        attempts: how often a request is made at most, where the server is busy, hangs up or is silent.
        pause: seconds before the second time, doubled each time after; a server's Retry-After is followed.
        concurrency: requests at a time; fewer where whole distributions are large.

    Raises:
        ModelError: no server, no such model, or numbers that would be wrong (`docs/servers.md` lists them).
        MissingPackageError: httpx2 or tenacity is not installed.

    Example:
        >>> from kullback.models import connect
        >>> model = connect("http://127.0.0.1:8000/v1")  # doctest: +SKIP
        >>> model.capabilities.kind  # doctest: +SKIP
        'whole distributions'
    """
    client = Client(address_of(name), timeout=timeout, attempts=attempts, pause=pause, concurrency=concurrency)
    found, tokenizer = probed(client)
    kind = ServerDistribution if found.vocab is not None else ServerModel
    return kind(name, client, found, tokenizer, (found.sentence, *found.notes))
