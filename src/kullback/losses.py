"""KL terms whose gradient is the one their user meant: in the loss, and in the reward.

A loss differentiates its estimate with the samples held fixed, so that a plain mean of k1, k2 or k3 follows
another divergence than the one it estimates, or none. Here every token's term carries the weight of the
measure that drew it as a differentiable function of the policy, exp(log ρ − sg(log ρ))·ρ, so that
E_μ[L(θ)] is the objective for every θ, and its derivative the objective's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kullback._namespace import Array, at_least_float32, cumulative_sum, is_jax, is_torch, namespace, stop_gradient
from kullback.errors import InputError, ShapeError
from kullback.estimators import K1, RAO_BLACKWELL, Estimator
from kullback.families import Family
from kullback.targets import (
    FORWARD_KL,
    REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_REVERSE_KL,
    Target,
)
from kullback.weights import Truncated, Truncation

Baseline = Literal["leave_one_out"]


@dataclass(frozen=True)
class Objective:
    """How an objective's token terms are weighted, from the samples of μ.

    Attributes:
        target: the quantity, whose exact value the tests compare with.
        reverse: tokens are weighted to the policy and the KL is of the policy from the reference; else to the
            reference, and from the policy.
        statewise: prefixes are weighted to the policy and held fixed, so that only a token's own log-prob is
            differentiated.
    """

    target: Target
    reverse: bool
    statewise: bool

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name


OBJECTIVES = Family(
    (
        Objective(REVERSE_KL, reverse=True, statewise=False),
        Objective(FORWARD_KL, reverse=False, statewise=False),
        Objective(STATEWISE_REVERSE_KL, reverse=True, statewise=True),
        Objective(STATEWISE_FORWARD_KL, reverse=False, statewise=True),
    )
)


def kl_loss(
    logprobs: Array,
    ref_logprobs: Array,
    mask: Array | None = None,
    *,
    objective: Target,
    estimator: Estimator = K1,
    behavior_logprobs: Array | None = None,
    token_kl: Array | None = None,
    baseline: Baseline | Array | None = None,
    groups: Any = None,
    truncate: Truncation | float | None = None,
) -> Array:
    """mean_i Σ_t w_it k(±ℓ_it): a scalar in nats a sequence whose value and gradient are the objective's, unbiased.

    With μ what drew the rows (the policy itself unless `behavior_logprobs` is given) and ρ = q/μ,

    - REVERSE_KL: Σ_t ρ_{1:t} k(ℓ_t), ℓ = log q − log p: score and reward-to-go terms are in the derivative of ρ;
    - STATEWISE_REVERSE_KL: Σ_t sg(ρ_{1:t−1}) ρ_t k(ℓ_t), prefixes drawn from q and held fixed;
    - FORWARD_KL: Σ_t (p/μ)_{1:t} k(−ℓ_t);
    - STATEWISE_FORWARD_KL: Σ_t sg(ρ_{1:t−1}) (p_t/μ_t) k(−ℓ_t).

    With `token_kl` it is the Rao-Blackwellised Σ_t w_{1:t−1} KL_t, which differentiates KL_t too.

    Unbiased where μ gives probability to all that the objective's measure does (supp q ⊆ supp μ, or supp p) and
    every drawn token counts. Off-policy variance grows with the length; `truncate` trades it for a bias.
    Data-parallel training averages gradients over processes, which is right if each has as many rows.

    Args:
        logprobs: log q of the sampled tokens, (batch, time), torch or JAX, differentiable; bfloat16 and float16
            are computed in float32.
        ref_logprobs: log p of the same tokens. No gradient flows.
        mask: True where a token counts; the others may hold anything. A row without one contributes 0.
        objective: REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL or STATEWISE_FORWARD_KL. There is no default.
        estimator: K1, K3 or ControlVariate(λ); applied to −ℓ for the forward objectives.
        behavior_logprobs: log μ of the same tokens where another policy drew them. No gradient flows.
        token_kl: exact, differentiable KL over the vocabulary at each prefix, (batch, time): KL(q_t‖p_t) for the
            reverse objectives, KL(p_t‖q_t) for the forward ones.
        baseline: None; "leave_one_out", the mean over the other samples of the prompt; or the caller's own,
            (batch,) or (batch, time), which must not depend on the row it is used for. It changes the variance
            of the gradient and nothing else. A mean over the same batch is not offered: it shrinks the gradient.
        groups: the prompt of each row, (batch,), for "leave_one_out"; without it all rows have one prompt.
        truncate: a member of `kullback.weights`, or a number: the cap of the weights. Biased, as it declares.

    Returns:
        A scalar. Where the second model of the KL excludes a token that the first one's measure contains, the
        value is inf, and the gradient leaves that token out.

    Raises:
        InputError: an objective, estimator, baseline or groups that do not fit, or arrays of neither library.
        ShapeError: arrays whose shapes differ.

    Reference: docs/theory.md, “Losses”; Foerster et al. 2018 (DiCE) for the form on-policy.

    Example:
        >>> import torch, kullback as kb
        >>> q = torch.tensor([[-0.5, -1.0], [-0.7, -0.2]], requires_grad=True)
        >>> p = torch.tensor([[-0.7, -1.5], [-0.6, -0.9]])
        >>> loss = kb.kl_loss(q, p, objective=kb.REVERSE_KL)
        >>> loss.backward()
        >>> round(loss.item(), 4), [[round(x, 2) for x in row] for row in q.grad.tolist()]
        (0.65, [[0.85, 0.75], [0.8, 0.85]])
    """
    means = _objective(objective)
    truncation = truncate if isinstance(truncate, Truncation | None) else Truncated(truncate)
    kernel = _kernel(estimator, token_kl, means)
    rows = _Rows.of(logprobs, ref_logprobs, mask, behavior_logprobs, token_kl)
    weight, before = _weights(rows, means, truncation)
    xp = rows.xp
    terms = xp.where(
        rows.mask, before * rows.token_kl if kernel is None else weight * kernel(rows.gap(means)), rows.zero
    )
    loss = xp.mean(xp.sum(terms, axis=-1))
    if baseline is not None:
        loss = loss - xp.mean(xp.sum(_baseline_terms(rows, means, terms, weight, baseline, groups), axis=-1))
    return loss + rows.infinity(means, stop_gradient(before)) if kernel is not None else loss


def kl_reward(
    logprobs: Array,
    ref_logprobs: Array,
    mask: Array | None = None,
    *,
    estimator: Estimator,
    allow_biased: bool = False,
) -> Array:
    """k(ℓ_t) of every token, detached: the penalty to subtract from the rewards, coefficient times.

    Credited with the sequence's return or the reward-to-go, k1 follows the gradient of KL(q‖p) of sequences.

    Args:
        logprobs, ref_logprobs: log q and log p of the sampled tokens, (batch, time), any array library.
        mask: True where a token counts; the others get 0.
        estimator: what each token pays.
        allow_biased: take an estimator whose reward gradient is not the reverse KL's all the same.

    Returns:
        (batch, time), in nats, without gradient.

    Raises:
        InputError: an estimator that would follow something else than KL(q‖p).

    Example:
        >>> import numpy as np, kullback as kb
        >>> kb.kl_reward(np.array([[-0.5, -1.0]]), np.array([[-1.0, -0.5]]), estimator=kb.K1)
        array([[ 0.5, -0.5]])
    """
    followed = estimator.reward_gradient_of["token"] if estimator.reads == "log_ratio" else None
    if followed is not REVERSE_KL and not allow_biased:
        other = "no named quantity" if followed is None else f"the gradient of {followed.formula}"
        raise InputError(
            f"{estimator.name} in the reward follows {other}, not that of KL(q‖p): "
            "use kullback.K1, or pass allow_biased=True if that is what you want"
        )
    q = at_least_float32(logprobs, "logprobs")
    p = at_least_float32(_like(ref_logprobs, q), "ref_logprobs")
    xp = namespace(q)
    counted = xp.ones_like(q) > 0 if mask is None else _like(mask, q) > 0
    zero = xp.zeros_like(q)
    log_ratio = xp.where(counted, q, zero) - xp.where(counted, p, zero)
    return stop_gradient(xp.where(counted, estimator.fn(log_ratio), zero))


def _objective(target: Target) -> Objective:
    for objective in OBJECTIVES:
        if objective.target is target:
            return objective
    raise InputError(
        f"objective={target!r} came, but it is one of kullback.REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL "
        "and STATEWISE_FORWARD_KL"
    )


def _kernel(estimator: Estimator, token_kl: Array | None, objective: Objective) -> Callable[[Array], Array] | None:
    """What is applied to a token's gap; None for Rao-Blackwell."""
    exact = estimator is RAO_BLACKWELL
    if token_kl is not None and not exact and estimator is not K1:
        raise InputError(f"token_kl and estimator={estimator.name} came: give one of the two")
    if token_kl is not None:
        return None
    if exact:
        direction = "KL(q_t‖p_t)" if objective.reverse else "KL(p_t‖q_t)"
        raise InputError(f"rao_blackwell needs token_kl=…, the exact {direction} at each prefix, and did not get it")
    if estimator.controls or estimator.value_of["token"] is not REVERSE_KL:
        raise InputError(
            f"estimator={estimator.name} came, but its token values do not sum to a KL that can be differentiated: "
            "use kullback.K1, kullback.K3 or kullback.ControlVariate(λ) with a number"
        )
    return estimator.fn


@dataclass(frozen=True)
class _Rows:
    """Log-probs (batch, time) with zeros at masked and at impossible tokens, which `inside` marks False."""

    xp: Any
    policy: Array
    reference: Array
    behavior: Array
    token_kl: Array
    mask: Array
    excluded_by_policy: Array
    excluded_by_reference: Array

    @classmethod
    def of(
        cls, logprobs: Array, ref_logprobs: Array, mask: Array | None, behavior: Array | None, token_kl: Array | None
    ) -> _Rows:
        q = at_least_float32(logprobs, "logprobs")
        if not (is_torch(q) or is_jax(q)):
            raise InputError(f"logprobs is a {type(logprobs).__name__}, but gradients need torch or JAX arrays")
        xp = namespace(q)
        p = stop_gradient(at_least_float32(_like(ref_logprobs, q), "ref_logprobs"))
        mu = stop_gradient(q if behavior is None else at_least_float32(_like(behavior, q), "behavior_logprobs"))
        kl = xp.zeros_like(q) if token_kl is None else at_least_float32(token_kl, "token_kl")
        counted = xp.ones_like(p) > 0 if mask is None else _like(mask, q) > 0
        for name, array in {"ref_logprobs": p, "behavior_logprobs": mu, "token_kl": kl, "mask": counted}.items():
            if q.ndim != 2 or tuple(array.shape) != tuple(q.shape):
                raise ShapeError(
                    f"{name} has shape {tuple(array.shape)} and logprobs {tuple(q.shape)}: "
                    "all token arrays share one (batch, time) shape"
                )
        zero = xp.zeros_like(p)
        no_q, no_p = counted & (q == -xp.inf), counted & (p == -xp.inf)
        return cls(
            xp,
            xp.where(counted & ~no_q, q, zero),
            xp.where(counted & ~no_p, p, zero),
            xp.where(counted, mu, zero),
            xp.where(counted, kl, zero),
            counted,
            no_q,
            no_p,
        )

    @property
    def zero(self) -> Array:
        """Zeros, (batch, time)."""
        return self.xp.zeros_like(self.reference)

    def gap(self, objective: Objective) -> Array:
        """ℓ, or −ℓ for the forward objectives; 0 where a model excludes the token."""
        gap = self.policy - self.reference if objective.reverse else self.reference - self.policy
        return self.xp.where(self.excluded_by_policy | self.excluded_by_reference, self.zero, gap)

    def infinity(self, objective: Objective, reach: Array) -> Array:
        """inf if the first model's measure reaches a token that the second one excludes, else 0."""
        xp = self.xp
        first, second = self.excluded_by_policy, self.excluded_by_reference
        if not objective.reverse:
            first, second = second, first
        hit = xp.any(second & ~first & (reach > 0))
        return xp.where(hit, xp.asarray(xp.inf, dtype=reach.dtype), xp.asarray(0.0, dtype=reach.dtype))


def _weights(rows: _Rows, objective: Objective, truncation: Truncation | None) -> tuple[Array, Array]:
    """Weights (batch, time) of a token's term, with and without the token itself, differentiable as they must be."""
    xp = rows.xp
    to_policy = rows.policy - rows.behavior
    to_reference = rows.reference - rows.behavior
    drawn = to_policy if objective.reverse else to_reference
    gone = rows.excluded_by_policy if objective.reverse else rows.excluded_by_reference
    prefix, prefix_gone = (to_policy, rows.excluded_by_policy) if objective.statewise else (drawn, gone)
    total = cumulative_sum(prefix)
    before = total - prefix
    if objective.statewise:
        before = stop_gradient(before)
    alive = _alive(prefix_gone, xp)
    return (
        _tamed(before + drawn, alive * xp.astype(~gone, alive.dtype), truncation),
        _tamed(before, alive, truncation),
    )


def _alive(gone: Array, xp: Any) -> Array:
    """1 until the measure excludes a token, 0 after it."""
    counts = xp.astype(gone, xp.float32)
    return xp.astype(cumulative_sum(counts) - counts == 0, xp.float32)


def _tamed(log_weight: Array, alive: Array, truncation: Truncation | None) -> Array:
    """exp(log w) with its gradient; a changed weight keeps the gradient's direction, exp(log w − sg(log w))."""
    xp = namespace(log_weight)
    alive = xp.astype(alive, log_weight.dtype)
    if truncation is None:
        return alive * xp.exp(log_weight)
    fixed = stop_gradient(log_weight)
    value = alive * truncation.fn(xp.exp(fixed))
    if truncation.self_normalised:
        value = value / xp.mean(value, axis=0, keepdims=True)
    return value * xp.exp(log_weight - fixed)


def _baseline_terms(
    rows: _Rows, objective: Objective, terms: Array, weight: Array, baseline: Any, groups: Any
) -> Array:
    """b_t·ρ_{1:t}(log q_t − sg(log q_t)): value 0, and a gradient of mean 0 where b does not see the row."""
    xp = rows.xp
    score = rows.policy - stop_gradient(rows.policy)
    to_policy = stop_gradient(cumulative_sum(rows.policy - rows.behavior))
    rho = xp.exp(to_policy) * xp.astype(_alive(rows.excluded_by_policy, xp), to_policy.dtype)
    rho = xp.where(rows.excluded_by_policy | ~rows.mask, rows.zero, rho)
    if isinstance(baseline, str):
        if baseline != "leave_one_out":
            raise InputError(f"baseline={baseline!r} came, but it is None, 'leave_one_out' or an array")
        fixed = stop_gradient(terms)
        if not objective.reverse:
            returns = -stop_gradient(weight) * xp.astype(rows.mask, fixed.dtype)
        elif objective.statewise:
            returns = fixed
        else:
            returns = xp.flip(cumulative_sum(xp.flip(fixed, axis=-1)), axis=-1)
        baseline = _mean_of_others(returns, groups)
    level = stop_gradient(baseline)
    level = level[:, None] if level.ndim == 1 else level
    return level * rho * score


def _mean_of_others(returns: Array, groups: Any) -> Array:
    """For every row, the mean of the other rows of its prompt, position by position."""
    xp = namespace(returns)
    keys = (
        np.zeros(returns.shape[0], dtype=np.int64)
        if groups is None
        else np.unique(_host(groups), return_inverse=True)[1]
    )
    if len(keys) != returns.shape[0]:
        raise ShapeError(
            f"groups has {len(keys)} entries, but one prompt id for each of {returns.shape[0]} rows is needed"
        )
    counts = np.bincount(keys)
    if (counts < 2).any():
        raise InputError(
            "leave_one_out needs at least two samples of every prompt, and a prompt came with one: "
            "sample more, or use baseline=None"
        )
    same = (keys[:, None] == keys[None, :]) & ~np.eye(len(keys), dtype=bool)
    share = same / (counts[keys] - 1)[:, None]
    return xp.matmul(xp.astype(_like(share, returns), returns.dtype), returns)


def _like(array: Array, like: Array) -> Array:
    """An array of any kind in the library and on the device of another one."""
    if is_torch(like) and not is_torch(array):
        return namespace(like).asarray(np.array(array), device=like.device)
    return namespace(like).asarray(array)


def _host(groups: Any) -> np.ndarray:
    return groups.detach().cpu().numpy() if is_torch(groups) else np.asarray(groups)
