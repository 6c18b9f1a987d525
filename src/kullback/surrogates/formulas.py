"""The formulas of trainers' KL losses: functions of (batch, time) log-probs that return one number a row.

Here q and p are the log-probs of the sampled tokens under the policy and the reference, and ℓ = q − p.
"""

from __future__ import annotations

from collections.abc import Callable

from kullback.arrays import Array, namespace, stop_gradient
from kullback.estimators.divergences import forward_k3, k2, k3

TOP = 2
"""Tokens in the head of the top-k members; small, since exact worlds have small vocabularies."""

Kernel = Callable[[Array], Array]


def _sum(mask: Array, values: Array) -> Array:
    xp = namespace(values)
    return xp.sum(xp.where(mask > 0, values, xp.zeros_like(values)), axis=-1)


def _carried(value: Array, log_weight: Array) -> Array:
    """sg(value) with the gradient value·∇log_weight."""
    xp = namespace(value)
    return stop_gradient(value) * xp.exp(log_weight - stop_gradient(log_weight))


def _token_ratio(q: Array, behavior_logprobs: Array | None) -> Array:
    xp = namespace(q)
    return xp.exp(q - (stop_gradient(q) if behavior_logprobs is None else behavior_logprobs))


def absolute(log_ratio: Array) -> Array:
    """|ℓ|"""
    return namespace(log_ratio).abs(log_ratio)


def token_loss(q: Array, p: Array, mask: Array, kernel: Kernel) -> Array:
    """Σ_t k(ℓ_t)"""
    return _sum(mask, kernel(q - p))


def sequence_loss(q: Array, p: Array, mask: Array, kernel: Kernel) -> Array:
    """k(Σ_t ℓ_t)"""
    return kernel(_sum(mask, q - p))


def token_reward(q: Array, p: Array, mask: Array, kernel: Kernel) -> Array:
    """sg(Σ_t k(ℓ_t))·Π_t q_t/sg(q_t)"""
    return _carried(_sum(mask, kernel(q - p)), _sum(mask, q))


def sequence_reward(q: Array, p: Array, mask: Array, kernel: Kernel) -> Array:
    """sg(k(Σ_t ℓ_t))·Π_t q_t/sg(q_t)"""
    return _carried(kernel(_sum(mask, q - p)), _sum(mask, q))


def own_token_reward(q: Array, p: Array, mask: Array, kernel: Kernel) -> Array:
    """Σ_t sg(k(ℓ_t))·q_t/sg(q_t)"""
    return _sum(mask, _carried(kernel(q - p), q))


def straight_through(q: Array, p: Array, mask: Array, kernel: Kernel) -> Array:
    """Σ_t k2(ℓ_t) + sg(k(ℓ_t) − k2(ℓ_t))"""
    x = q - p
    return _sum(mask, k2(x) + stop_gradient(kernel(x) - k2(x)))


def token_weighted(
    q: Array, p: Array, mask: Array, behavior_logprobs: Array | None = None, *, kernel: Kernel, detached: bool
) -> Array:
    """Σ_t ρ_t k(ℓ_t), ρ_t = q_t/μ_t"""
    ratio = _token_ratio(q, behavior_logprobs)
    return _sum(mask, (stop_gradient(ratio) if detached else ratio) * kernel(q - p))


def geometric_weighted(
    q: Array, p: Array, mask: Array, behavior_logprobs: Array | None = None, *, kernel: Kernel
) -> Array:
    """(Π_t ρ_t)^(1/T)·Σ_t k(ℓ_t)"""
    xp = namespace(q)
    mu = stop_gradient(q) if behavior_logprobs is None else behavior_logprobs
    length = xp.sum(xp.astype(mask > 0, q.dtype), axis=-1)
    return xp.exp(_sum(mask, q - mu) / length) * _sum(mask, kernel(q - p))


def rpg_forward(q: Array, p: Array, mask: Array) -> Array:
    """Σ_t −ℓ_t"""
    return _sum(mask, p - q)


def rpg_reverse(q: Array, p: Array, mask: Array) -> Array:
    """Σ_t w_t ℓ_t, w = q/p"""
    return _sum(mask, namespace(q).exp(q - p) * (q - p))


def rpg_unnormalised_forward(q: Array, p: Array, mask: Array) -> Array:
    """Σ_t w_t − 1 − ℓ_t, w = q/p"""
    return _sum(mask, k3(p - q))


def rpg_unnormalised_reverse(q: Array, p: Array, mask: Array) -> Array:
    """Σ_t w_t ℓ_t − w_t + 1, w = q/p"""
    return _sum(mask, forward_k3(p - q))


def clamped_loss(
    q: Array, p: Array, mask: Array, *, kernel: Kernel, log_ratio: float = float("inf"), value: float = float("inf")
) -> Array:
    """Σ_t clip(k(clip(ℓ_t, ±a)), ±b)"""
    xp = namespace(q)
    return _sum(mask, xp.clip(kernel(xp.clip(q - p, -log_ratio, log_ratio)), -value, value))


def clamped_after_ratio(q: Array, p: Array, mask: Array, behavior_logprobs: Array | None = None) -> Array:
    """Σ_t clip(ρ_t k3(ℓ_t), ±10)"""
    return _sum(mask, namespace(q).clip(_token_ratio(q, behavior_logprobs) * k3(q - p), -10.0, 10.0))


def squared_about(q: Array, p: Array, mask: Array, constant: float) -> Array:
    """½(c + Σ_t ℓ_t)²"""
    return k2(constant + _sum(mask, q - p))


def _head(owner: Array, tokens: Array) -> tuple[Array, Array]:
    """The TOP likeliest tokens under a model: as a mask (…, vocab), and whether the drawn token is outside."""
    xp = namespace(owner)
    order = xp.argsort(-stop_gradient(owner), axis=-1)[..., :TOP]
    vocabulary = xp.arange(owner.shape[-1])
    head = xp.any(xp.equal(order[..., None], vocabulary), axis=-2)
    outside = ~xp.any(xp.equal(order, tokens[..., None]), axis=-1)
    return head, xp.astype(outside, owner.dtype)


def _mean_gap(a: Array, b: Array, head: Array) -> Array:
    """Σ_{v in head} a log(a/b)."""
    xp = namespace(a)
    terms = xp.exp(a) * (a - b)
    return xp.sum(xp.where(head, terms, xp.zeros_like(terms)), axis=-1)


def _masses(a: Array, head: Array) -> tuple[Array, Array]:
    xp = namespace(a)
    mass = xp.exp(a)
    inside = xp.sum(xp.where(head, mass, xp.zeros_like(mass)), axis=-1)
    outside = xp.sum(xp.where(head, xp.zeros_like(mass), mass), axis=-1)
    return inside, outside


def top_rest(
    q: Array,
    p: Array,
    mask: Array,
    *,
    tokens: Array,
    log_distributions: Array,
    ref_log_distributions: Array,
    reverse: bool,
) -> Array:
    """Σ_t Σ_{v in head} a log(a/b) + a_rest log(a_rest/b_rest), the rest in one bucket"""
    xp = namespace(q)
    a, b = (log_distributions, ref_log_distributions)[:: 1 if reverse else -1]
    head, _ = _head(log_distributions if reverse else ref_log_distributions, tokens)
    rest_a, rest_b = _masses(a, head)[1], _masses(b, head)[1]
    return _sum(mask, _mean_gap(a, b, head) + rest_a * xp.log(rest_a / rest_b))


def top_renormalised(
    q: Array,
    p: Array,
    mask: Array,
    *,
    tokens: Array,
    log_distributions: Array,
    ref_log_distributions: Array,
    reverse: bool,
) -> Array:
    """Σ_t KL of the two heads, each renormalised"""
    xp = namespace(q)
    a, b = (log_distributions, ref_log_distributions)[:: 1 if reverse else -1]
    head, _ = _head(log_distributions if reverse else ref_log_distributions, tokens)
    mass_a, mass_b = _masses(a, head)[0], _masses(b, head)[0]
    return _sum(mask, _mean_gap(a, b, head) / mass_a - xp.log(mass_a / mass_b))


def top_tail_reverse(
    q: Array,
    p: Array,
    mask: Array,
    *,
    tokens: Array,
    log_distributions: Array,
    ref_log_distributions: Array,
    behavior_logprobs: Array | None = None,
    detached: bool,
) -> Array:
    """Σ_t Σ_{v in head} q log(q/p) + 1(y_t not in head) ρ_t ℓ_t"""
    head, outside = _head(log_distributions, tokens)
    # EMA-PG detaches the log-ratio; ρ_t alone then carries the gradient, without the Σ q ∇log q of the tail.
    x = stop_gradient(q - p) if detached else q - p
    tail = outside * _token_ratio(q, behavior_logprobs) * x
    return _sum(mask, _mean_gap(log_distributions, ref_log_distributions, head) + tail)


def top_tail_forward(
    q: Array,
    p: Array,
    mask: Array,
    *,
    tokens: Array,
    log_distributions: Array,
    ref_log_distributions: Array,
    behavior_logprobs: Array | None = None,
    extra: bool,
) -> Array:
    """Σ_t Σ_{v in head} p log(p/q) + 1(y_t not in head) sg(p_t/μ_t)(−ℓ_t)"""
    xp = namespace(q)
    head, outside = _head(ref_log_distributions, tokens)
    mu = stop_gradient(q) if behavior_logprobs is None else behavior_logprobs
    weight = stop_gradient(xp.exp(p - mu))
    # EMA-PG adds q − sg(q): 0, with the gradient ∇log q. Over the tail its mean is ∇ of the tail's mass under q,
    # which is 0 only where the whole vocabulary is the tail.
    tail = -weight * stop_gradient(q - p) + (q - stop_gradient(q)) if extra else -weight * (q - p)
    return _sum(mask, _mean_gap(ref_log_distributions, log_distributions, head) + outside * tail)


def exact_token_kl(q: Array, p: Array, mask: Array, token_kl: Array) -> Array:
    """Σ_t KL(q_t‖p_t), over the vocabulary"""
    return _sum(mask, token_kl)
