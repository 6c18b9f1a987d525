"""Exact token KLs of two models that give whole next-token distributions, from one forward pass of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kullback.models.protocols import DistributionScorer, Tokens
from kullback.models.sampling import Sampling
from kullback.models.scoring import by_row, chunks
from kullback.vocab import token_kl


@dataclass(frozen=True)
class Law:
    """A model, the distribution that is meant by it, and whether it drew the tokens that are scored."""

    model: DistributionScorer
    sampling: Sampling
    drawn: bool = False

    def logprobs(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(tokens, vocab); a token that was drawn is never cut off."""
        return self.sampling.logprobs(logits, tokens if self.drawn else None)


def token_columns(
    q: Law, p: Law, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, vocab: int
) -> dict[str, list[np.ndarray]]:
    """The columns of `Scores` by name, each an array for each completion."""
    q_logits, p_logits = (law.model.next_logits(prompts, completions) for law in (q, p))
    device = q.model.device
    tokens = torch.tensor([t for c in completions for t in c], device=device)
    parts = []
    with torch.inference_mode():
        for at in chunks(len(tokens), vocab):
            q_logprobs = q.logprobs(q_logits[at][..., :vocab], tokens[at])
            # Heads may be padded to different widths; what both models share are the first `vocab` logits.
            p_logprobs = p.logprobs(p_logits[at][..., :vocab].to(device), tokens[at])
            parts.append(_columns(q_logprobs, p_logprobs, tokens[at]))
    return {name: by_row(np.concatenate([part[name] for part in parts]), completions) for name in parts[0]}


def _columns(q: torch.Tensor, p: torch.Tensor, token: torch.Tensor) -> dict[str, np.ndarray]:
    chosen = token[:, None]
    numbers = {
        "logprobs": q.gather(-1, chosen)[:, 0],
        "ref_logprobs": p.gather(-1, chosen)[:, 0],
        "token_kl": token_kl(q, p, direction="reverse"),
        "reverse_token_kl": token_kl(q, p, direction="forward"),
        "ref_mass": p.exp().masked_fill(q.isneginf(), 0.0).sum(dim=-1),
    }
    tops = {"top": q.argmax(dim=-1), "ref_top": p.argmax(dim=-1)}
    return {
        **{name: x.cpu().double().numpy() for name, x in numbers.items()},
        **{name: x.cpu().numpy() for name, x in tops.items()},
    }
