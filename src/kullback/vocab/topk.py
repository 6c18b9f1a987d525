"""From the top-k log-probs that servers return: bounds on the KL, and its unbiased estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kullback.errors import InputError, ShapeError
from kullback.vocab.formulas import gap
from kullback.vocab.logits import check_floating

TopK = Tensor | tuple[Tensor, Tensor]

# How far the mass of some words may exceed 1. Servers send log-probs rounded to bfloat16, or to a few decimals: 20
# words then sum to 1 within about 1e-3. Logits in the place of log-probs exceed it by far more.
SLACK = 1e-3


class TopKKL(NamedTuple):
    """What the log-probs of some words say of KL(q‖p), (…), in nats.

    Attributes:
        lower: a lower bound: the words, and all others as one.
        upper: an upper bound; inf where the log-probs allow none.
        estimate: unbiased over the sampled token, in value and gradient; None where no sample was given.
    """

    lower: Tensor
    upper: Tensor
    estimate: Tensor | None


def topk_kl(
    policy_topk: TopK,
    reference_topk: TopK,
    *,
    max_log_ratio: float | None = None,
    tokens: Tensor | None = None,
    logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    inside: Tensor | None = None,
    coefficient: float = 1.0,
) -> TopKKL:
    """Bounds and an unbiased estimate of KL(q‖p) from the log-probs of some words S under both models.

    With Q = q(S), P = p(S) and H = Σ_S q log(q/p), and KL = H + Σ_{v∉S} q log(q/p):

    - lower: H + (1−Q) log((1−Q)/(1−P)), all other words taken as one; the error is (1−Q)·KL within them;
    - upper: H + (1−Q)B if log(q/p) ≤ B outside S (``max_log_ratio``): top-k lists alone give none, for p may
      be as small as it likes on a word outside them;
    - estimate, with a token x ~ q: H + 1[x∉S](ℓ(x) + λ(e^−ℓ(x) − 1)) − λ(Q − P), unbiased for every λ where q
      allows the words that p allows. Its gradient in the policy's log-probs is that of KL(q‖p) at its
      prefix, in expectation, too.

    Where each model names its own top words S is what both lists hold. See ``renormalised_topk_kl`` for what
    many trainers compute instead.

    Args:
        policy_topk: log q of the words, (…, k); or (ids, log q) where the two lists name their own words.
        reference_topk: log p of the same words, (…, k); or (ids, log p).
        max_log_ratio: B, a bound on log(q/p) outside S that is known from elsewhere.
        tokens: the sampled tokens, (…), where lists have ids.
        logprobs, ref_logprobs: log q and log p of the sampled tokens, (…).
        inside: whether each sampled token is among the words, (…), where lists have no ids.
        coefficient: λ. 1 makes the tail's part k3.

    Returns:
        ``TopKKL(lower, upper, estimate)``, (…) each, in the dtype of policy_topk, float32 at least.

    Raises:
        ShapeError: arrays that do not fit together.
        InputError: masses above 1 (logits instead of log-probs), or half of what a sample needs.

    Source:
        The chain rule of a partition; EMA-PG (arXiv 2602.04417), algorithm 1, with its gradient mended.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> q, p = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.2, 0.4, 0.4]]).log()
        >>> bounds = kb.vocab.topk_kl(q[:, :2], p[:, :2], max_log_ratio=0.0)
        >>> bounds.lower, bounds.upper, kb.vocab.token_kl(q, p)
        (tensor([0.2332]), tensor([0.3718]), tensor([0.2332]))
    """
    q, p, known = _words(policy_topk, reference_topk)
    head = _head(q, p)
    dtype = torch.promote_types(_logs(policy_topk).dtype, torch.float32)
    rounding = 8 * torch.finfo(dtype).eps
    rest_q, rest_p = _log_rest(q, rounding), _log_rest(p, rounding).clamp(min=math.log(rounding))
    lower = gap(q, p).sum(dim=-1) + gap(rest_q, rest_p)
    if max_log_ratio is None:
        upper = torch.where(rest_q.isneginf(), lower, float("inf"))
    else:
        upper = head + rest_q.exp() * max_log_ratio
    estimate = None
    if logprobs is not None or ref_logprobs is not None:
        outside = _outside(policy_topk, known, tokens, inside)
        sample = _sample(logprobs, ref_logprobs, outside)
        estimate = _estimate(head, q, p, sample, coefficient=coefficient)
    return TopKKL(lower.to(dtype), upper.to(dtype), None if estimate is None else estimate.to(dtype))


def renormalised_topk_kl(policy_topk: TopK, reference_topk: TopK) -> Tensor:
    """KL of the two distributions renormalised over the words: neither a bound nor an estimate of KL(q‖p).

    H/Q − log(Q/P), the KL within the words alone, blind to what both models give to all others. Here to
    compare with trainers that compute it (NeMo-RL's top-k distillation, vOPD's baseline).

    Args:
        policy_topk, reference_topk: as for ``topk_kl``.

    Returns:
        (…), in nats.

    Raises:
        ShapeError, InputError: as ``topk_kl``.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> q, p = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.2, 0.4, 0.4]]).log()
        >>> kb.vocab.renormalised_topk_kl(q[:, :2], p[:, :2])
        tensor([0.1771])
    """
    q, p, _ = _words(policy_topk, reference_topk)
    a, b = (x - x.logsumexp(dim=-1, keepdim=True) for x in (q, p))
    return gap(a, b).sum(dim=-1).to(torch.promote_types(_logs(policy_topk).dtype, torch.float32))


def _logs(topk: TopK) -> Tensor:
    return topk if isinstance(topk, Tensor) else topk[1]


def _words(policy_topk: TopK, reference_topk: TopK) -> tuple[Tensor, Tensor, Tensor | None]:
    """log q and log p of the words both know, (…, k), −inf on the others; and which those are."""
    q, p = _logs(policy_topk), _logs(reference_topk)
    check_floating(policy_topk=q, reference_topk=p)
    known = None
    if isinstance(policy_topk, Tensor) != isinstance(reference_topk, Tensor):
        raise InputError("one list of words has ids and the other has none: give ids for both, or for neither")
    if not isinstance(policy_topk, Tensor) and not isinstance(reference_topk, Tensor):
        if policy_topk[0].shape != q.shape or reference_topk[0].shape != p.shape:
            raise ShapeError("the ids of a list and its log-probs differ in shape: both must be (…, k)")
        same = policy_topk[0][..., :, None] == reference_topk[0][..., None, :]
        known = same.any(dim=-1)
        p = p.gather(-1, same.int().argmax(dim=-1)) if p.shape[-1] else torch.full_like(q, float("-inf"))
        q, p = (x.masked_fill(~known, float("-inf")) for x in (q, p))
    if q.shape != p.shape:
        raise ShapeError(
            f"policy_topk has shape {tuple(q.shape)} and reference_topk {tuple(p.shape)}: both must be (…, k), "
            "log-probs of the same words, or carry their ids"
        )
    for name, x in (("policy_topk", q), ("reference_topk", p)):
        mass = float(x.detach().double().exp().sum(dim=-1).amax()) if x.numel() else 0.0
        if mass > 1 + SLACK:
            raise InputError(f"{name} has a total probability of {mass:.4g}: give log-probs, not logits")
    return q.double(), p.double(), known


def _head(q: Tensor, p: Tensor) -> Tensor:
    """H, where a word without mass counts nothing."""
    some = ~q.isneginf()
    return torch.where(some, q.exp() * (q - p).masked_fill(~some, 0.0), 0.0).sum(dim=-1)


def _log_rest(x: Tensor, rounding: float) -> Tensor:
    """log(1 − Σe^x), −inf where that is no more than rounding."""
    rest = 1.0 - x.exp().sum(dim=-1)
    return torch.where(rest > rounding, rest.clamp(min=rounding).log(), float("-inf"))


def _outside(topk: TopK, known: Tensor | None, tokens: Tensor | None, inside: Tensor | None) -> Tensor:
    if not isinstance(topk, Tensor):
        if tokens is None or known is None:
            raise InputError("a sample of lists with ids needs tokens, the ids that were sampled")
        return ~((topk[0] == tokens[..., None]) & known).any(dim=-1)
    if inside is None:
        raise InputError("a sample needs inside, whether each sampled token is among the words")
    return ~inside


@dataclass(frozen=True)
class _Sample:
    """One sampled token a list: its log-probs, and whether it is outside the list."""

    log_q: Tensor
    log_p: Tensor
    outside: Tensor


def _sample(logprobs: Tensor | None, ref_logprobs: Tensor | None, outside: Tensor) -> _Sample:
    if logprobs is None or ref_logprobs is None:
        raise InputError("a sample needs both logprobs and ref_logprobs of the sampled tokens")
    if not logprobs.shape == ref_logprobs.shape == outside.shape:
        raise ShapeError(
            f"logprobs has shape {tuple(logprobs.shape)}, ref_logprobs {tuple(ref_logprobs.shape)} and the "
            f"lists {tuple(outside.shape)}: one sampled token a list is needed"
        )
    return _Sample(log_q=logprobs.double(), log_p=ref_logprobs.double(), outside=outside)


def _estimate(head: Tensor, q: Tensor, p: Tensor, sample: _Sample, *, coefficient: float) -> Tensor:
    log_ratio = torch.where(sample.outside, sample.log_q - sample.log_p, 0.0)
    mass_gap = q.exp().sum(dim=-1) - p.exp().sum(dim=-1)
    value = head + log_ratio + coefficient * torch.expm1(-log_ratio) - coefficient * mass_gap
    # The gradient: the head's by differentiation, the tail's by the score of the sampled token.
    follows = head + torch.where(sample.outside, (log_ratio.detach() + 1.0) * sample.log_q, 0.0)
    return value.detach() + follows - follows.detach()
