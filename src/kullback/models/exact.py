"""Exact token KLs of two models that give whole next-token distributions, from one forward pass of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kullback.models.bases import Basis
from kullback.models.head_columns import Side, features, head_columns
from kullback.models.hidden import HiddenStates
from kullback.models.masses import with_mass
from kullback.models.protocols import DistributionScorer, NextLogits, Tokens
from kullback.models.sampling import Sampling
from kullback.models.scoring import by_row, chunks
from kullback.vocab import token_kl


@dataclass(frozen=True)
class Law:
    """A model, the distribution that is meant by it, whether it drew what is scored, and the states it drew from."""

    model: DistributionScorer
    sampling: Sampling
    drawn: bool = False
    said: HiddenStates | None = None

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
    q: Law, p: Law, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, vocab: int, basis: Basis | None = None
) -> dict[str, list[np.ndarray]]:
    """The columns of `Scores` by name, each an array for each completion.

    Heads may have different widths, padded or with added tokens; both models have the first `vocab` logits. The first
    model's law is kept to those, since nothing else is drawn; the second's log-probs stay those of its whole law. With
    the first model's basis there are `state` and `deviation` too, (tokens, numbers).
    """
    q_said, p_said = (law.said or next_of(law.model, prompts, completions) for law in (q, p))
    tokens = torch.tensor([t for c in completions for t in c], device=q.model.device)
    with torch.inference_mode():
        if isinstance(q_said, HiddenStates) and isinstance(p_said, HiddenStates) and _through_heads(q, p):
            first = Side(q_said.hidden, q_said.head, q.sampling.temperature)
            second = Side(p_said.hidden, p_said.head, p.sampling.temperature)
            parts = list(head_columns(first, second, tokens, vocab=vocab, basis=basis))
        else:
            parts = list(_by_logits((q, q_said), (p, p_said), tokens, vocab=vocab, basis=basis))
    return {name: by_row(np.concatenate([part[name] for part in parts]), completions) for name in parts[0]}


def next_of(model: DistributionScorer, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> NextLogits:
    """Hidden states where the model gives them, else logits."""
    hidden = getattr(model, "next_hidden", None)
    found: HiddenStates | None = None if hidden is None else hidden(prompts, completions)
    return model.next_logits(prompts, completions) if found is None else found


def _through_heads(q: Law, p: Law) -> bool:
    """Whether nothing needs a token's logits all at once, to rank or to sum them in order."""
    return q.model.device == p.model.device and not (q.sampling.truncates or p.sampling.truncates)


def _by_logits(
    of_q: tuple[Law, NextLogits],
    of_p: tuple[Law, NextLogits],
    tokens: torch.Tensor,
    *,
    vocab: int,
    basis: Basis | None,
) -> Iterator[dict[str, np.ndarray]]:
    """The columns of some tokens at a time."""
    (q, q_logits), (p, p_logits) = of_q, of_p
    for at in chunks(len(tokens), max(q.model.vocab, p.model.vocab)):
        q_at, p_at, chosen = q_logits[at], p_logits[at].to(tokens.device), tokens[at]
        kept = q.kept(q_at, chosen, vocab)
        columns = _columns(kept, p.whole(p_at, vocab), chosen)
        if basis is not None:
            hidden = q_logits.hidden[at] if isinstance(q_logits, HiddenStates) else None
            columns |= features(basis, hidden, kept, chosen)
        yield with_mass(columns, q.log_mass(q_at, vocab), p.log_mass(p_at, vocab))


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
