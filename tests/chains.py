"""A language model of three tokens without any library: it draws and scores, and gives log-probs only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.models import Completion, Prompt, Randomness, Sampling

END = 0


@dataclass(frozen=True)
class Scoring:
    """A first-order Markov chain that scores: row a of `chances` is the law of what follows token a; 0 ends."""

    name: str
    chances: np.ndarray
    context: int = 64
    vocabulary: Mapping[str, int] = field(default_factory=lambda: {"·": 0, "a": 1, "b": 2})

    def encode(self, prompt: Prompt) -> list[int]:
        return [self.vocabulary[letter] for letter in str(prompt)]

    def decode(self, tokens: Sequence[int], *, special: bool = True) -> str:
        return "".join("·ab"[token] for token in tokens if special or token != END)

    def law(self, sampling: Sampling) -> np.ndarray:
        """Log-probs of every token after every other."""
        assert not sampling.truncates
        x = np.log(self.chances) / sampling.temperature
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    def logprobs(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], sampling: Sampling, *, drawn: bool
    ) -> list[np.ndarray]:
        law = self.law(sampling)
        return [law[[prompt[-1], *row[:-1]], list(row)] for prompt, row in zip(prompts, completions, strict=True)]


@dataclass(frozen=True)
class Chain(Scoring):
    """The same, and it draws too."""

    end_tokens: tuple[int, ...] = (END,)
    mixes_lengths: bool = True

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        randomness: Randomness,
        on_tokens: Callable[[int], None],
    ) -> list[Completion]:
        return [self._one(prompt[-1], self.law(sampling), max_new_tokens, randomness, on_tokens) for prompt in prompts]

    def _one(
        self, token: int, law: np.ndarray, most: int, randomness: Randomness, on_tokens: Callable[[int], None]
    ) -> Completion:
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < most and (not tokens or token != END):
            before, token = token, int(randomness.numpy.choice(3, p=np.exp(law[token])))
            tokens.append(token)
            logprobs.append(law[before, token])
            on_tokens(1)
        return Completion(tokens, np.array(logprobs), "end" if token == END else "length")


POLICY = Chain("policy", np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6]]) * 0.97 + 0.01)
REFERENCE = Chain("reference", np.array([[1.0, 0.0, 0.0], [0.3, 0.2, 0.5], [0.2, 0.4, 0.4]]) * 0.97 + 0.01)


def exact_kl(q: Chain, p: Chain, first: int, horizon: int) -> float:
    """KL(q‖p) of completions after token `first`, cut at the horizon: a sum over states and times."""
    rows = np.sum(q.chances * np.log(q.chances / p.chances), axis=1)
    alive, total = np.eye(3)[first], 0.0
    for _ in range(horizon):
        total += float(alive @ rows)
        alive = alive @ q.chances
        alive[END] = 0.0
    return total
