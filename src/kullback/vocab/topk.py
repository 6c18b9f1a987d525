"""From the top-k log-probs that servers return: bounds on the KL, and its unbiased estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kullback.arrays import LOGPROBS, REF_LOGPROBS, Numbers, can_look, check, check_mask, number
from kullback.errors import InputError, ShapeError
from kullback.vocab import records
from kullback.vocab.doors import tensor_of
from kullback.vocab.formulas import gap
from kullback.vocab.logits import check_floating, check_integers

TopK = Tensor | tuple[Tensor, Tensor]

Lists = Numbers | tuple[Any, Any] | Any
"""What is taken for a list of words: log-probs, (ids, log-probs), or a server's records."""

# How far the mass of some words may exceed 1. Servers send log-probs rounded to bfloat16, or to a few decimals: 20
# words then sum to 1 within about 1e-3. Logits in the place of log-probs exceed it by far more.
SLACK = 1e-3


class TopKKL(NamedTuple):
    """What the log-probs of some words say of KL(q‖p), (…), in nats.

    Attributes:
        lower: a lower bound: the words, and all others as one.
        upper: an upper bound; inf where the log-probs allow none.
        estimate: unbiased over the sampled token, in value and gradient; None where no sample was given.

    Example:
        >>> import kullback as kb
        >>> q, p = [{0: -0.5, 1: -1.5}], [{0: -0.7, 1: -1.3}]
        >>> found = kb.vocab.topk_kl(q, p)
        >>> bool(0 <= found.lower[0] <= found.upper[0]), found.estimate
        (True, None)
    """

    lower: Tensor
    upper: Tensor
    estimate: Tensor | None


def topk_kl(
    policy_topk: Lists,
    reference_topk: Lists,
    *,
    max_log_ratio: float | None = None,
    tokens: Any = None,
    logprobs: Numbers | None = None,
    ref_logprobs: Numbers | None = None,
    inside: Numbers | None = None,
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
        policy_topk: log q of the words, (…, k), a tensor, an array or lists; or (ids, log q) where the two lists
            name their own words; or what a server sent: OpenAI's `logprobs` or `top_logprobs`, vLLM's dicts from ids
            to log-probs, SGLang's (log-prob, id, text), of one position or a list of them. Rows of records may
            differ in length; −inf is a word without mass.
        reference_topk: log p of the same words, (…, k); or (ids, log p); or records.
        max_log_ratio: B, a bound on log(q/p) outside S that is known from elsewhere; inf if none is.
        tokens: the sampled tokens, (…), ids (or texts, as the records name them), where lists have ids.
        logprobs, ref_logprobs: log q and log p of the sampled tokens, (…).
        inside: whether each sampled token is among the words, (…), where lists have no ids; bool, or exactly 0 and 1.
        coefficient: λ. 1 makes the tail's part k3.

    Returns:
        ``TopKKL(lower, upper, estimate)``, (…) each, in the dtype of policy_topk, float32 at least.

    Raises:
        ShapeError: arrays that do not fit together.
        InputError: masses above 1 (logits instead of log-probs), a word twice, a log-prob that is nan, above 0 or a
            server's sentinel (−9999), a bound B below what the masses show, or half of what a sample needs.

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
    bound = None if max_log_ratio is None else _bound(max_log_ratio)
    policy, reference, drawn = _taken(policy_topk, reference_topk, tokens)
    coefficient = number("coefficient", coefficient, "λ is a finite number")
    q, p, known = _words(policy, reference)
    head = _head(q, p)
    dtype = torch.promote_types(_logs(policy).dtype, torch.float32)
    rest_q, rest_p = _rest(q, _logs(policy).dtype), _rest(p, _logs(reference).dtype)
    lower = gap(q, p).sum(dim=-1) + _least_gap(rest_q, rest_p)
    if bound is None or bound == math.inf:
        upper = torch.where(rest_q.low > 0, float("inf"), lower)
    else:
        _check_bound(bound, rest_q, rest_p)
        upper = torch.maximum(head + (rest_q.high if bound > 0 else rest_q.low) * bound, lower)
    estimate = None
    if logprobs is not None or ref_logprobs is not None:
        outside = _outside(policy, known, drawn, inside)
        sample = _sample(logprobs, ref_logprobs, outside)
        estimate = _estimate(head, q, p, sample, coefficient=coefficient)
    return TopKKL(lower.to(dtype), upper.to(dtype), None if estimate is None else estimate.to(dtype))


def renormalised_topk_kl(policy_topk: Lists, reference_topk: Lists) -> Tensor:
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
    policy, reference, _ = _taken(policy_topk, reference_topk, None)
    q, p, _ = _words(policy, reference)
    a, b = (x - x.logsumexp(dim=-1, keepdim=True) for x in (q, p))
    return gap(a, b).sum(dim=-1).to(torch.promote_types(_logs(policy).dtype, torch.float32))


def _taken(policy: Lists, reference: Lists, tokens: Any) -> tuple[TopK, TopK, Tensor | None]:
    """Lists of any kind as tensors."""
    if records.is_record(policy) or records.is_record(reference):
        if not (records.is_record(policy) and records.is_record(reference)):
            raise InputError("one list is a server's record and the other is none: pass records for both, or arrays")
        return records.tensors(policy, reference, tokens)
    drawn = None if tokens is None else tensor_of(tokens, "tokens")
    return _tensors(policy, "policy_topk"), _tensors(reference, "reference_topk"), drawn


def _tensors(topk: Lists, name: str) -> TopK:
    if not isinstance(topk, tuple) or len(topk) != 2:
        return _floats(topk, name)
    ids = tensor_of(topk[0], f"the ids of {name}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"the ids of {name} are {ids.dtype}, but ids are integers: (ids, log-probs) in this order")
    return ids, _floats(topk[1], name)


def _floats(x: Any, name: str) -> Tensor:
    tensor = tensor_of(x, name)
    check_floating(**{name: tensor})
    if tensor.ndim == 0:
        raise ShapeError(f"{name} is one number, but the log-probs of some words are needed, (…, k)")
    return tensor


def _bound(max_log_ratio: float) -> float:
    words = "a bound on log(q/p) is a number, or inf where none is known"
    return number("max_log_ratio", max_log_ratio, words, infinite=True)


def _logs(topk: TopK) -> Tensor:
    return topk if isinstance(topk, Tensor) else topk[1]


def _words(policy_topk: TopK, reference_topk: TopK) -> tuple[Tensor, Tensor, Tensor | None]:
    """log q and log p of the words both know, (…, k), −inf on the others; and which those are."""
    q, p = _logs(policy_topk), _logs(reference_topk)
    for name, x in (("policy_topk", q), ("reference_topk", p)):
        _look_at(name, x)
    known = None
    if isinstance(policy_topk, Tensor) != isinstance(reference_topk, Tensor):
        raise InputError("one list of words has ids and the other has none: give ids for both, or for neither")
    if not isinstance(policy_topk, Tensor) and not isinstance(reference_topk, Tensor):
        if policy_topk[0].shape != q.shape or reference_topk[0].shape != p.shape:
            raise ShapeError("the ids of a list and its log-probs differ in shape: both must be (…, k)")
        if policy_topk[0].shape[:-1] != reference_topk[0].shape[:-1]:
            raise ShapeError(
                f"policy_topk has shape {tuple(q.shape)} and reference_topk {tuple(p.shape)}: both must have one list "
                "for each position"
            )
        for name, (ids, x) in (("policy_topk", policy_topk), ("reference_topk", reference_topk)):
            _refuse_twice(name, ids, x)
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
        if x.numel() == 0 and x.shape[-1] != 0:
            raise ShapeError(f"{name} has shape {tuple(x.shape)}, which holds no position")
        mass = float(x.detach().double().exp().sum(dim=-1).amax()) if x.numel() else 0.0
        if mass > 1 + SLACK:
            raise InputError(f"{name} has a total probability of {mass:.4g}: give log-probs, not logits")
    return q.double(), p.double(), known


def _head(q: Tensor, p: Tensor) -> Tensor:
    """H, where a word without mass counts nothing."""
    some = ~q.isneginf()
    return torch.where(some, q.exp() * (q - p).masked_fill(~some, 0.0), 0.0).sum(dim=-1)


def _look_at(name: str, x: Tensor) -> None:
    fixed = x.detach()
    if x.numel() and can_look(fixed) and not bool((fixed > math.log1p(SLACK)).any()):  # else the mass says it
        check(name, fixed, None, REF_LOGPROBS)


def _refuse_twice(name: str, ids: Tensor, logs: Tensor) -> None:
    """Hold that a list names each word once; words of −inf are fillers."""
    some = ~logs.isneginf()
    if bool(((ids < 0) & some).any()):
        raise InputError(f"{name} has a negative id with a log-prob: fill a list with words of −inf")
    alone = torch.where(some, ids, -1 - torch.arange(ids.shape[-1], device=ids.device))
    ordered = alone.sort(dim=-1).values
    twice = ordered[..., 1:] == ordered[..., :-1]
    if bool(twice.any()):
        word = int(ordered[..., 1:][twice][0])
        raise InputError(f"{name} has the word {word} twice in a list: each word counts once")


class _Rest(NamedTuple):
    """1 − Σe^x: what all other words have, as it comes, and what it is at least and at most, for x is rounded."""

    low: Tensor
    high: Tensor


def _rest(x: Tensor, dtype: torch.dtype) -> _Rest:
    mass = x.exp()
    # x itself is rounded by its own last digit, so that log-probs near 0 still tell an outside of 1e-9.
    digits = torch.where(x.isneginf(), 0.0, mass * x.abs()).sum(dim=-1) * torch.finfo(dtype).eps
    slack = (digits + (8 + x.shape[-1]) * torch.finfo(torch.float64).eps).detach()
    rest = 1.0 - mass.sum(dim=-1)
    return _Rest((rest - slack).clamp(min=0.0), (rest + slack).clamp(min=0.0))


def _least_gap(q: _Rest, p: _Rest) -> Tensor:
    """The least that all other words, taken as one, may add: 0 where both may have the same mass."""
    apart = (q.low > p.high) | (q.high < p.low)
    a = torch.where(q.low > p.high, q.low, q.high)
    b = torch.where(q.low > p.high, p.high.clamp(min=torch.finfo(torch.float64).eps), p.low)
    return torch.where(apart, gap(_log(a), _log(b)), 0.0)


def _log(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).log(), float("-inf"))


def _check_bound(bound: float, q: _Rest, p: _Rest) -> None:
    """Hold that a bound on log(q/p) outside the list is at least what the two masses outside it show."""
    shown = _log(q.low) - _log(p.high.clamp(min=1e-300))
    if bool((shown > bound + 1e-9).any()):
        raise InputError(
            f"max_log_ratio={bound:g} came, but outside the list the policy has e^{float(shown.max()):.3g} times the "
            "reference's probability: a bound on log(q/p) there is at least that"
        )


def _outside(topk: TopK, known: Tensor | None, tokens: Tensor | None, inside: Any) -> Tensor:
    logs = _logs(topk)
    if not isinstance(topk, Tensor):
        if tokens is None or known is None:
            raise InputError("a sample of lists with ids needs tokens, the ids that were sampled")
        check_integers(tokens)
        _check_one_each("tokens", tokens, logs)
        return ~((topk[0] == tokens[..., None]) & known).any(dim=-1)
    if inside is None:
        raise InputError("a sample needs inside, whether each sampled token is among the words")
    among = tensor_of(inside, "inside")
    _check_one_each("inside", among, logs)
    if among.dtype != torch.bool:
        check_mask(among, name="inside")
    return among == 0


def _check_one_each(name: str, x: Tensor, logs: Tensor) -> None:
    if x.shape != logs.shape[:-1]:
        raise ShapeError(
            f"{name} has shape {tuple(x.shape)}, but the lists {tuple(logs.shape)} need {tuple(logs.shape[:-1])}: "
            "one sampled token a list is needed"
        )


@dataclass(frozen=True)
class _Sample:
    """One sampled token a list: its log-probs, and whether it is outside the list."""

    log_q: Tensor
    log_p: Tensor
    outside: Tensor


def _sample(given: Any, given_ref: Any, outside: Tensor) -> _Sample:
    if given is None or given_ref is None:
        raise InputError("a sample needs both logprobs and ref_logprobs of the sampled tokens")
    logprobs, ref_logprobs = tensor_of(given, "logprobs"), tensor_of(given_ref, "ref_logprobs")
    check_floating(logprobs=logprobs, ref_logprobs=ref_logprobs)
    if not logprobs.shape == ref_logprobs.shape == outside.shape:
        raise ShapeError(
            f"logprobs has shape {tuple(logprobs.shape)}, ref_logprobs {tuple(ref_logprobs.shape)} and the "
            f"lists {tuple(outside.shape)}: one sampled token a list is needed"
        )
    for name, x, bounds in (("logprobs", logprobs, LOGPROBS), ("ref_logprobs", ref_logprobs, REF_LOGPROBS)):
        if x.numel() and can_look(x.detach()):
            check(name, x.detach(), None, bounds)
    return _Sample(log_q=logprobs.double(), log_p=ref_logprobs.double(), outside=outside)


def _estimate(head: Tensor, q: Tensor, p: Tensor, sample: _Sample, *, coefficient: float) -> Tensor:
    log_ratio = torch.where(sample.outside, sample.log_q - sample.log_p, 0.0)
    mass_gap = q.exp().sum(dim=-1) - p.exp().sum(dim=-1)
    value = head + log_ratio + coefficient * torch.expm1(-log_ratio) - coefficient * mass_gap
    # The gradient: the head's by differentiation, the tail's by the score of the sampled token.
    follows = head + torch.where(sample.outside, (log_ratio.detach() + 1.0) * sample.log_q, 0.0)
    return value.detach() + follows - follows.detach()
