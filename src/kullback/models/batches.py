"""Prompts and completions as one padded batch, and where in it each token is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kullback.models.protocols import Tokens

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded on the right, which a causal model cannot see.

    Attributes:
        tokens, mask: (rows, longest).
        row, place: where each token of the completions is predicted, (tokens,).
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor

    def run(self, model: LanguageModel) -> Any:
        """What the model returns."""
        options = {"attention_mask": self.mask} if "attention_mask" in model.accepts else {}
        return model.model(input_ids=self.tokens, use_cache=False, **options)


def token_batch(model: LanguageModel, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> TokenBatch:
    """The batch on the model's device."""
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    longest = max(map(len, rows))
    places = [len(prompt) - 1 + t for prompt, c in zip(prompts, completions, strict=True) for t in range(len(c))]
    columns = (
        [[*row, *[model.pad_token] * (longest - len(row))] for row in rows],
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        [i for i, c in enumerate(completions) for _ in c],
        places,
    )
    return TokenBatch(*(torch.tensor(column, device=model.device, dtype=torch.long) for column in columns))
