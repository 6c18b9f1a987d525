"""Exact token KLs of two models that give whole next-token distributions, from one forward pass of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    def kept(self, logits: torch.Tensor, tokens: torch.Tensor, vocab: int) -> torch.Tensor:
        """Log-probs given that a token is one of the first `vocab`, (tokens, vocab): the law that is drawn from.

        A token that was drawn is never cut off.
        """
        return replace(self.sampling, vocab=vocab).logprobs(logits, tokens if self.drawn else None)

    def whole(self, logits: torch.Tensor, vocab: int) -> torch.Tensor:
        """Log-probs of the first `vocab` tokens under the law of all of them, (tokens, vocab): less than 1 in all."""
        return replace(self.sampling, vocab=None).logprobs(logits)[..., :vocab]

    def log_mass(self, logits: torch.Tensor, vocab: int) -> torch.Tensor | None:
        """Log of the first `vocab` tokens' probability before top-k and top-p, (tokens,); None where that is all."""
        if logits.shape[-1] <= vocab:
            return None
        x = logits.float() / self.sampling.temperature
        return x[..., :vocab].logsumexp(dim=-1) - x.logsumexp(dim=-1)


def token_columns(
    q: Law, p: Law, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, vocab: int
) -> dict[str, list[np.ndarray]]:
    """The columns of `Scores` by name, each an array for each completion.

    Heads may have different widths, padded or with added tokens; both models have the first `vocab` logits. The first
    model's law is kept to those, since nothing else is drawn; the second's log-probs stay those of its whole law.
    """
    q_logits, p_logits = (law.model.next_logits(prompts, completions) for law in (q, p))
    device = q.model.device
    tokens = torch.tensor([t for c in completions for t in c], device=device)
    parts = []
    with torch.inference_mode():
        for at in chunks(len(tokens), max(q.model.vocab, p.model.vocab)):
            q_at, p_at, chosen = q_logits[at], p_logits[at].to(device), tokens[at]
            columns = _columns(q.kept(q_at, chosen, vocab), p.whole(p_at, vocab), chosen)
            parts.append(_with_mass(columns, q.log_mass(q_at, vocab), p.log_mass(p_at, vocab)))
    return {name: by_row(np.concatenate([part[name] for part in parts]), completions) for name in parts[0]}


def _with_mass(
    columns: dict[str, np.ndarray], q_mass: torch.Tensor | None, p_mass: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """Token KLs against the whole law of the model on the right, and the probability outside the shared tokens.

    KL(q‖m·p) = KL(q‖p) − log m for laws q and p over the shared tokens, of which the whole law has the mass m.
    """
    for kl, outside, log_mass in (("reverse_token_kl", "outside", q_mass), ("token_kl", "ref_outside", p_mass)):
        if log_mass is not None:
            found = log_mass.cpu().double().numpy()
            columns = {**columns, kl: columns[kl] - found, outside: -np.expm1(found)}
    return columns


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
