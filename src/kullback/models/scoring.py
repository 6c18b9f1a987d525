"""Scoring given tokens with a transformers model: one forward pass over rows padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from kullback.arrays import Float64
from kullback.models.batches import token_batch
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
    """One forward pass over all rows."""
    batch = token_batch(model, prompts, completions)
    with torch.inference_mode(), evaluating(model.model):
        out = batch.run(model)
    return PaddedLogits(logits=out.logits, row=batch.row, place=batch.place)


def completion_logprobs(
    model: LanguageModel, prompts: Sequence[Tokens], completions: Sequence[Tokens], sampling: Sampling, *, drawn: bool
) -> list[Float64]:
    """Log-probs of the completions' tokens under the model's law; see `Scorer.logprobs`."""
    hidden = model.next_hidden(prompts, completions)
    tokens = torch.tensor([t for c in completions for t in c], device=model.device)
    with torch.inference_mode():
        if hidden is not None and not sampling.truncates:
            found = hidden.logprobs(tokens, sampling)
        else:
            logits = padded_logits(model, prompts, completions) if hidden is None else hidden
            found = torch.cat(
                [_chosen(sampling, logits[at], tokens[at], drawn) for at in chunks(len(tokens), model.vocab)]
            )
    return by_row(found.cpu().double().numpy(), completions)


def _chosen(sampling: Sampling, logits: torch.Tensor, tokens: torch.Tensor, drawn: bool) -> torch.Tensor:
    law = sampling.logprobs(logits, tokens if drawn else None)
    return law.gather(-1, tokens[:, None])[:, 0]


def chunks(tokens: int, vocab: int) -> Iterator[slice]:
    """Slices of so many tokens that their float32 logits take CHUNK_BYTES."""
    size = max(1, CHUNK_BYTES // (4 * vocab))
    for start in range(0, tokens, size):
        yield slice(start, start + size)


def by_row(column: np.ndarray, completions: Sequence[Tokens]) -> list[np.ndarray]:
    """Numbers of all tokens, (tokens,), as one array for each completion."""
    starts = np.cumsum([0, *map(len, completions)])
    return [column[a:b] for a, b in pairwise(starts)]
