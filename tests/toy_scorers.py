"""A model whose log-probs can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling


@dataclass
class Letters:
    """Reads small letters as 1 to 26, after a 0 that it puts before every text; e ends a sequence.

    The log-prob of a token t at place i of the whole sequence is −scale·(t + i).
    """

    name: str = "letters"
    scale: float = 0.1
    context: int = 50
    end_tokens: tuple[int, ...] = (5,)
    spoilt: int = -1

    @property
    def vocabulary(self) -> dict[str, int]:
        return {}

    def encode(self, prompt: object) -> list[int]:
        return [0, *(ord(letter) - 96 for letter in str(prompt).lower())]

    def decode(self, tokens: Tokens, *, special: bool = True) -> str:
        return "".join(chr(token + 96) for token in tokens if token)

    def logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling, *, drawn: bool
    ) -> list[np.ndarray]:
        assert all(map(len, prompts))
        return [self._row(len(prompt), one) for prompt, one in zip(prompts, completions, strict=True)]

    def _row(self, start: int, tokens: Tokens) -> np.ndarray:
        found = [-self.scale * (token + start + i) for i, token in enumerate(tokens)]
        return np.array([np.nan if token == self.spoilt else one for token, one in zip(tokens, found, strict=True)])
