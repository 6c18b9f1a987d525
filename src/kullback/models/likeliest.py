"""The likeliest next tokens of two models at every token of some completions, and how sure the first one is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kullback.models.exact import Law, next_of
from kullback.models.protocols import DistributionScorer, Tokens
from kullback.models.sampling import Sampling
from kullback.models.scoring import by_row, chunks


def likeliest(
    models: tuple[DistributionScorer, DistributionScorer],
    laws: tuple[Sampling, Sampling],
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    words: int,
) -> dict[str, list[np.ndarray]]:
    """Of every completion the fields of `kullback.jobs.looks.Look` by name, of the tokens that both models have.

    Args:
        models: the policy and the reference.
        laws: under which each is meant.
        prompts, completions: token ids, row by row.
        words: likely words at each token; fewer where the models have fewer.
    """
    vocab = min(model.vocab for model in models)
    tokens = torch.tensor([t for c in completions for t in c])
    sides = [Law(model, law) for model, law in zip(models, laws, strict=True)]
    # Not all logits at once where there are hidden states: 128 rows of 150,000 words would be gigabytes.
    logits = [next_of(model, prompts, completions) for model in models]
    parts: list[dict[str, torch.Tensor]] = []
    with torch.inference_mode():
        for at in chunks(len(tokens), max(model.vocab for model in models)):
            q = sides[0].kept(logits[0][at], tokens[at].to(logits[0][at].device), vocab)
            p = sides[1].whole(logits[1][at], vocab)
            first, second = (law.topk(min(words, vocab), dim=-1) for law in (q, p))
            parts.append(
                {
                    "entropy": torch.special.entr(q.exp()).sum(dim=-1).double(),
                    "words": first.indices,
                    "logprobs": first.values.double(),
                    "ref_words": second.indices,
                    "ref_logprobs": second.values.double(),
                }
            )
    return {name: by_row(torch.cat([part[name].cpu() for part in parts]).numpy(), completions) for name in parts[0]}
