"""Scoring given tokens with a transformers model: one forward pass over rows padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from kullback.arrays import Float64
from kullback.models.evaluation import evaluating
from kullback.models.protocols import Tokens
from kullback.models.sampling import Sampling

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel

CHUNK_BYTES = 1 << 26
"""Float32 logits of one model that are worked on at a time."""


@dataclass(frozen=True)
class PaddedLogits:
    """Next-token logits of the completions' tokens, gathered from a padded batch only where they are asked for.

    Attributes:
        logits: (rows, longest, vocab).
        row, place: where each token's distribution is, (tokens,).
    """

    logits: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor

    def __getitem__(self, at: slice, /) -> torch.Tensor:
        # Some at a time: all at once would be a second copy of the logits, 0.6 GB for 1,000 tokens of 150,000 logits.
        return self.logits[self.row[at], self.place[at]]


def padded_logits(model: LanguageModel, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> PaddedLogits:
    """One forward pass over all rows; a causal model cannot see padding on the right."""
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[model.pad_token] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    places = [len(prompt) - 1 + t for prompt, c in zip(prompts, completions, strict=True) for t in range(len(c))]
    options = {"attention_mask": mask.to(model.device)} if "attention_mask" in model.accepts else {}
    with torch.inference_mode(), evaluating(model.model):
        out = model.model(input_ids=tokens.to(model.device), use_cache=False, **options)
    return PaddedLogits(
        logits=out.logits,
        row=torch.tensor([i for i, c in enumerate(completions) for _ in c], device=model.device),
        place=torch.tensor(places, device=model.device),
    )


def completion_logprobs(
    model: LanguageModel, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling, *, drawn: bool
) -> list[Float64]:
    """Log-probs of the completions' tokens under the model's law; see `Scorer.logprobs`."""
    logits = padded_logits(model, prompts, completions)
    tokens = torch.tensor([t for c in completions for t in c], device=model.device)
    parts = []
    with torch.inference_mode():
        for at in chunks(len(tokens), logits.logits.shape[-1]):
            law = sampling.logprobs(logits[at], tokens[at] if drawn else None)
            parts.append(law.gather(-1, tokens[at, None])[:, 0].cpu().double().numpy())
    return by_row(np.concatenate(parts), completions)


def chunks(tokens: int, vocab: int) -> Iterator[slice]:
    """Slices of so many tokens that their float32 logits take CHUNK_BYTES."""
    size = max(1, CHUNK_BYTES // (4 * vocab))
    for start in range(0, tokens, size):
        yield slice(start, start + size)


def by_row(column: np.ndarray, completions: Sequence[Tokens]) -> list[np.ndarray]:
    """Numbers of all tokens, (tokens,), as one array for each completion."""
    starts = np.cumsum([0, *map(len, completions)])
    return [column[a:b] for a, b in pairwise(starts)]
