"""What two models say of given tokens, from hidden states and LM heads: some tokens' logits at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kullback.models.bases import Basis
from kullback.models.heads import LMHead
from kullback.models.masses import with_mass
from kullback.vocab.backends import block_kernels
from kullback.vocab.formulas import wide
from kullback.vocab.heads import Head, HeadPlan, bands
from kullback.vocab.linear import head_plan
from kullback.vocab.ops import plain_arithmetic
from kullback.vocab.pairs import HeadPair, head_pair
from kullback.vocab.shared import same_head

EVERY = slice(None)

PART = 1024
"""Columns of which the largest is found before its place."""


class Side(NamedTuple):
    """One model: its hidden states, (tokens, hidden), its head, and the temperature of the law that is meant."""

    hidden: Tensor
    head: LMHead
    temperature: float

    def words(self, of: slice) -> Head:
        """The head of some words."""
        return self.head.with_hidden(self.hidden, of, self.temperature)


def head_columns(
    q: Side, p: Side, tokens: Tensor, *, vocab: int, basis: Basis | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The columns of `Scores` by name, some tokens at a time, as `exact.token_columns` has them.

    Where both models have one head, z_q and z_q − z_p = (h_q − h_p)·Wᵀ are made instead of z_q and z_p, and whatever
    compares the models is off in proportion to how far they are apart, not to the logits.

    Args:
        q, p: the models, on one device.
        tokens: what was drawn, (tokens,), of the first `vocab`.
        vocab: words that both heads have.
        basis: of the first model, for `state` and `deviation`.
    """
    shared = slice(0, vocab)
    pair, plan = _pair(q.words(shared), p.words(shared))
    rest = [side.words(slice(vocab, side.head.vocab)) if side.head.vocab > vocab else None for side in (q, p)]
    with plain_arithmetic(pair.q.hidden):
        for at in bands(pair.q, 2, 0, max(q.head.vocab, p.head.vocab)):
            found, several = _statistics(pair, plan, at, tokens[at], basis)
            masses = [_log_mass(head, at, found[total]) for head, total in zip(rest, ("log_q", "log_p"), strict=True)]
            yield with_mass(_columns(found, masses[1]) | several, *masses)


def _pair(q: Head, p: Head) -> tuple[HeadPair, HeadPlan]:
    """Both models' heads, with difference products where they share one."""
    numbers = (q.scale, q.softcap)
    one = (
        numbers == (p.scale, p.softcap)
        and (q.hidden.shape, q.hidden.dtype) == (p.hidden.shape, p.hidden.dtype)
        and same_head(q.weight, p.weight)
    )
    plan = head_plan(
        (q.hidden, q.weight, q.bias),
        (p.hidden, p.weight, p.bias),
        temperature=1.0,
        scale=q.scale,
        softcap=q.softcap or None,
        precision=None,
        workspace=None,
        # Compiled code rounds in another order, and is made only where that pays: a seed would give other last digits.
        backend="eager" if q.hidden.device.type == "cpu" else None,
        difference=int(one),
    )
    return head_pair(q, p, plan, None) if one else HeadPair(q=q, p=p), plan


def _statistics(
    pair: HeadPair, plan: HeadPlan, at: slice, tokens: Tensor, basis: Basis | None
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Of the laws over the shared words: normalisers, KLs both ways, tops, log-probs of the tokens; and features."""
    kernels = block_kernels(plan.backend)
    z, second, _ = pair.block(pair.q.uncapped(at, EVERY), at, EVERY, slope=False)
    chosen, apart = (wide(x.gather(-1, tokens[:, None])[:, 0]) for x in (z, second))
    log_q, log_p, token_kl = kernels.pair_statistics(z, second, 1.0, pair.difference).unbind(dim=-1)
    top = most_likely(z)
    several = {} if basis is None else features(basis, pair.q.hidden[at], wide(z) - log_q[:, None], tokens)
    if pair.difference:  # in its place: the logits of p, and the difference the other way
        backward = kernels.pair_statistics(z.sub_(second), second.neg_(), 1.0, True)
    else:
        apart = chosen - apart
        backward = kernels.pair_statistics(second, z, 1.0, False)
    found = {
        "log_q": log_q,
        "log_p": log_p,
        "logprobs": chosen - log_q,
        "log_ratio": apart - (log_q - log_p),
        "token_kl": token_kl,
        "reverse_token_kl": backward[:, 2],
        "top": top,
        "ref_top": most_likely(z if pair.difference else second),
    }
    return found, several


def features(basis: Basis, hidden: Tensor | None, log_q: Tensor, tokens: Tensor) -> dict[str, np.ndarray]:
    """`state` and `deviation` of some tokens, (tokens, numbers)."""
    state = None if hidden is None else basis.state(hidden)
    both = {"state": state, "deviation": basis.deviation(log_q, tokens)}
    return {name: x.float().cpu().numpy() for name, x in both.items() if x is not None}


def most_likely(logits: Tensor) -> Tensor:
    """Each row's first largest column, (rows,): ``argmax``, which takes nine times as long on a CPU."""
    whole = logits.shape[1] - logits.shape[1] % PART
    if logits.device.type != "cpu" or not whole:
        return logits.argmax(dim=-1)
    parts = torch.unflatten(logits[:, :whole], 1, (-1, PART))
    part = parts.amax(dim=-1).argmax(dim=-1)
    rows = torch.arange(len(logits))
    found = part * PART + parts[rows, part].argmax(dim=-1)
    if whole == logits.shape[1]:
        return found
    last = whole + logits[:, whole:].argmax(dim=-1)
    return torch.where(logits[rows, last] > logits[rows, found], last, found)


def _log_mass(rest: Head | None, at: slice, log_shared: Tensor) -> Tensor | None:
    """Log of the shared words' probability, from the head of the others; None where there are none."""
    if rest is None:
        return None
    others = wide(rest.logits(at, EVERY)).logsumexp(dim=-1)
    return log_shared - torch.logaddexp(log_shared, others)


def _columns(found: dict[str, Tensor], p_mass: Tensor | None) -> dict[str, np.ndarray]:
    """As `Scores` has them; the second model's log-probs are those of its whole law."""
    mass = torch.zeros_like(found["logprobs"]) if p_mass is None else p_mass
    columns = {
        "ref_logprobs": found["logprobs"] - found["log_ratio"] + mass,
        "ref_mass": mass.exp(),
        **{name: found[name] for name in ("logprobs", "token_kl", "reverse_token_kl", "top", "ref_top")},
    }
    numbers = {name: x.cpu() for name, x in columns.items()}
    return {name: (x.double() if x.is_floating_point() else x).numpy() for name, x in numbers.items()}
