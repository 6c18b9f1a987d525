"""KL terms whose gradient is the one their user meant: in the loss, and in the reward.

A loss differentiates its estimate with the samples held fixed, so that a plain mean of k1, k2 or k3 follows
another divergence than the one it estimates, or none. Here value and gradient are written down apart: the
value from detached numbers, and the gradient as Σ_t c_t ∇log q_t with the coefficient that makes its mean
the objective's gradient, which is also cheaper than differentiating through the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal

import numpy as np

from kullback.arrays import (
    A,
    Array,
    Elementwise,
    Groups,
    Namespace,
    at_least_float32,
    check_shapes,
    cumulative_sum,
    is_jax,
    is_torch,
    namespace,
    stop_gradient,
    to_numpy,
)
from kullback.errors import InputError, ShapeError
from kullback.estimators import K1, RAO_BLACKWELL, Estimator, member
from kullback.families import Family
from kullback.targets import (
    FORWARD_KL,
    REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_REVERSE_KL,
    Target,
)
from kullback.weights import Truncation, truncation

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
    logprobs: A,
    ref_logprobs: Array,
    mask: Array | None = None,
    *,
    objective: Target,
    estimator: Estimator | str = K1,
    behavior_logprobs: Array | None = None,
    token_kl: A | None = None,
    baseline: Baseline | Array | None = None,
    groups: Groups | None = None,
    truncate: Truncation | float | None = None,
) -> A:
    """mean_i Σ_t w_it k(±ℓ_it): a scalar in nats a sequence whose value and gradient are the objective's, unbiased.

    With μ what drew the rows (the policy itself unless `behavior_logprobs` is given), ρ = q/μ and
    ℓ = log q − log p, the value and the coefficient c_t of ∇log q_t are

    - REVERSE_KL: Σ_t ρ_{1:t} k(ℓ_t); c_t = ρ_{1:t} ℓ_t + Σ_{u>t} ρ_{1:u} k(ℓ_u);
    - STATEWISE_REVERSE_KL: the same value; c_t = ρ_{1:t} ℓ_t, prefixes drawn from q and held fixed;
    - FORWARD_KL: Σ_t w_t k(−ℓ_t), w_t = (p/μ)_{1:t}; c_t = w_{t−1} ρ_t − w_t;
    - STATEWISE_FORWARD_KL: the same with w_t = ρ_{1:t−1} p_t/μ_t and ρ_{1:t−1} for w_{t−1}.

    With `token_kl` the value is the Rao-Blackwellised Σ_t w_{t−1} KL_t, whose KL_t is differentiated, and for
    REVERSE_KL c_t = Σ_{u>t} ρ_{1:u−1} KL_u.

    Unbiased where μ gives probability to all that the objective's measure does (supp q ⊆ supp μ, or supp p) and
    every drawn token counts. Off-policy variance grows with the length; `truncate` trades it for a bias.
    Data-parallel training averages gradients over processes, which is right if each has as many rows.
    First derivatives only: a second one is that of Σ c_t log q_t with c_t fixed.

    Args:
        logprobs: log q of the sampled tokens, (batch, time), torch or JAX, differentiable; bfloat16 and float16
            are computed in float32.
        ref_logprobs: log p of the same tokens. No gradient flows.
        mask: True where a token counts; the others may hold anything. A row without one contributes 0.
        objective: REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL or STATEWISE_FORWARD_KL. There is no default.
        estimator: K1, K3 (or their names) or ControlVariate(λ); applied to −ℓ for the forward objectives.
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

    Reference: docs/theory.md, “Losses”; Tang & Munos 2025, arXiv 2506.09477, for the sequence gradient on-policy.

    Example:
        >>> import torch, kullback as kb
        >>> q = torch.tensor([[-0.5, -1.0], [-0.7, -0.2]], requires_grad=True)
        >>> p = torch.tensor([[-0.7, -1.5], [-0.6, -0.9]])
        >>> loss = kb.kl_loss(q, p, objective=kb.REVERSE_KL)
        >>> loss.backward()
        >>> round(loss.item(), 4), [[round(x, 2) for x in row] for row in q.grad.tolist()]
        (0.65, [[0.35, 0.25], [0.3, 0.35]])
    """
    means = _objective(objective)
    kernel = _kernel(member(estimator), token_kl, means)
    rows = _Rows.of(logprobs, ref_logprobs, mask, behavior_logprobs=behavior_logprobs, token_kl=token_kl)
    weights = _Weights(rows, means, truncation(truncate))
    terms = _terms(weights, kernel)
    coefficient = _coefficient(weights, kernel, terms)
    if baseline is not None:
        coefficient = coefficient - rows.ratio() * _baseline(coefficient, baseline, groups)
    loss = rows.mean(terms) + rows.gradient(coefficient, rows.live, rows.policy)
    if rows.live_kl is not None:
        before = None if weights.all_one else weights.before
        loss = loss + rows.gradient(before, rows.live_kl, stop_gradient(rows.live_kl))
    return loss


def kl_reward(
    logprobs: A,
    ref_logprobs: Array,
    mask: Array | None = None,
    *,
    estimator: Estimator | str,
    allow_biased: bool = False,
) -> A:
    """k(ℓ_t) of every token, detached: the penalty to subtract from the rewards, coefficient times.

    Credited with the sequence's return or the reward-to-go, k1 follows the gradient of KL(q‖p) of sequences.

    Args:
        logprobs, ref_logprobs: log q and log p of the sampled tokens, (batch, time), any array library.
        mask: True where a token counts; the others get 0.
        estimator: what each token pays, a member of `kullback.ESTIMATORS` or its name.
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
    estimator = member(estimator)
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


def _kernel(estimator: Estimator, token_kl: Array | None, objective: Objective) -> Elementwise:
    """What is applied to a token's gap, where no exact KL takes its place."""
    exact = estimator is RAO_BLACKWELL
    if token_kl is not None and not exact and estimator is not K1:
        raise InputError(f"token_kl and estimator={estimator.name} came: give one of the two")
    if token_kl is not None:
        return K1.fn
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
class _Rows(Generic[A]):
    """Log-probs (batch, time): the policy's and the token KLs as they came, everything else without gradient."""

    xp: Namespace
    live: A
    live_kl: A | None
    policy: A
    reference: A
    behavior: A | None
    mask: Array

    @classmethod
    def of(
        cls,
        logprobs: A,
        ref_logprobs: Array,
        mask: Array | None,
        *,
        behavior_logprobs: Array | None,
        token_kl: A | None,
    ) -> _Rows[A]:
        q = at_least_float32(logprobs, "logprobs")
        if not (is_torch(q) or is_jax(q)):
            raise InputError(f"logprobs is a {type(logprobs).__name__}, but gradients need torch or JAX arrays")
        xp = namespace(q)
        p = _fixed(ref_logprobs, q, "ref_logprobs")
        mu = None if behavior_logprobs is None else _fixed(behavior_logprobs, q, "behavior_logprobs")
        kl = None if token_kl is None else at_least_float32(token_kl, "token_kl")
        counted = xp.ones_like(p, dtype=xp.bool) if mask is None else xp.astype(_like(mask, q), xp.bool, copy=False)
        check_shapes(q, {"ref_logprobs": p, "behavior_logprobs": mu, "token_kl": kl, "mask": counted})
        return cls(
            xp=xp,
            live=q,
            live_kl=kl,
            policy=stop_gradient(q),
            reference=p,
            behavior=mu,
            mask=counted,
        )

    def kept(self, values: A) -> A:
        """values where a token counts, 0 elsewhere."""
        return self.xp.where(self.mask, values, 0.0)

    def mean(self, values: A) -> A:
        """The mean over rows of the sum over tokens."""
        return self.xp.sum(values) / values.shape[0]

    def gradient(self, coefficient: A | None, live: A, fixed: A) -> A:
        """0, with the gradient Σ c_t ∇live_t of the counted tokens at which live is finite."""
        usable = self.xp.where(self.mask & _is_finite(fixed, self.xp), live, 0.0)
        total = self.mean(usable if coefficient is None else coefficient * usable)
        return total - stop_gradient(total)

    def log_ratio(self, a: A) -> A:
        """log a − log μ at the tokens that count, 0 elsewhere."""
        return self.kept(a - (self.policy if self.behavior is None else self.behavior))

    def ratio(self) -> A:
        """ρ_{1:t}."""
        return self.xp.exp(cumulative_sum(self.log_ratio(self.policy)))


@dataclass(frozen=True)
class _Weights(Generic[A]):
    """What an objective weights the tokens by, (batch, time); computed only where it is asked for."""

    rows: _Rows[A]
    objective: Objective
    truncation: Truncation | None

    @property
    def all_one(self) -> bool:
        """Whether the objective's measure is the one that drew the tokens."""
        return self.rows.behavior is None and self.objective.reverse

    @cached_property
    def token(self) -> A:
        """The weight of what is known with the token."""
        exponent = self._log_before + self._log_own if self.objective.statewise else self._log_total
        return _tamed(self.rows.xp.exp(exponent), self.truncation)

    @cached_property
    def before(self) -> A:
        """The weight of what is known without it."""
        return _tamed(self.rows.xp.exp(self._log_before), self.truncation)

    def of_token(self, values: A) -> A:
        """values at the tokens that count, times the token's weight."""
        return self.rows.kept(values) if self.all_one else self._product(self.token, values)

    def of_prefix(self, values: A) -> A:
        """values at the tokens that count, times the prefix's weight."""
        return self.rows.kept(values) if self.all_one else self._product(self.before, values)

    def _product(self, weight: A, values: A) -> A:
        # A weight of 0 beats any value, inf too.
        return self.rows.xp.where(self.rows.mask & (weight > 0), weight * values, 0.0)

    @cached_property
    def _log_own(self) -> A:
        return self.rows.log_ratio(self.rows.policy if self.objective.reverse else self.rows.reference)

    @cached_property
    def _log_total(self) -> A:
        return cumulative_sum(self.rows.log_ratio(self.rows.policy) if self.objective.statewise else self._log_own)

    @cached_property
    def _log_before(self) -> A:
        # Shifted, not total − own: both are −inf once the measure has excluded a token.
        total = self._log_total
        return self.rows.xp.concat([self.rows.xp.zeros_like(total[:, :1]), total[:, :-1]], axis=-1)


def _tamed(weight: A, truncation: Truncation | None) -> A:
    if truncation is None:
        return weight
    weight = truncation.fn(weight)
    if truncation.self_normalised:
        xp = namespace(weight)
        return weight / xp.mean(weight, axis=0, keepdims=True)
    return weight


def _terms(weights: _Weights[A], kernel: Elementwise) -> A:
    """Each token's part of the value; inf where the second model excludes what the first one's measure reaches."""
    if weights.rows.live_kl is not None:
        return weights.of_prefix(stop_gradient(weights.rows.live_kl))
    gap = _gap(weights)
    return weights.of_token(gap if kernel is K1.fn else kernel(gap))


def _gap(weights: _Weights[A]) -> A:
    rows = weights.rows
    return rows.policy - rows.reference if weights.objective.reverse else rows.reference - rows.policy


def _coefficient(weights: _Weights[A], kernel: Elementwise, terms: A) -> A:
    """c_t of the gradient Σ_t c_t ∇log q_t; tokens whose term is infinite are left out."""
    rows, exact = weights.rows, weights.rows.live_kl is not None
    xp = rows.xp
    if not weights.objective.reverse:
        own_ratio = xp.exp(rows.log_ratio(rows.policy))
        return xp.zeros_like(terms) if exact else weights.before * own_ratio - weights.token
    finite = _finite(terms, xp)
    own = xp.zeros_like(terms) if exact else finite
    if not exact and kernel is not K1.fn:
        # The control λ(r − 1) has mean 0 whatever its own token's log-prob: only what comes before is credited.
        own = _finite(weights.of_token(_gap(weights)), xp)
    if weights.objective.statewise:
        return own
    to_go = xp.flip(cumulative_sum(xp.flip(finite, axis=-1)), axis=-1)
    return to_go if own is finite else to_go - finite + own


def _finite(values: A, xp: Namespace) -> A:
    return xp.where(_is_finite(values, xp), values, 0.0)


def _is_finite(values: Array, xp: Namespace) -> Array:
    # torch's isfinite takes three times as long on the CPU, as much as the rest of a term.
    return xp.abs(values) < xp.inf


def _baseline(coefficient: A, baseline: Baseline | Array, groups: Groups | None) -> A:
    """What is subtracted from c_t, times ρ_{1:t}: its part of the gradient has mean 0 if it does not see the row."""
    if isinstance(baseline, str):
        if baseline != "leave_one_out":
            raise InputError(f"baseline={baseline!r} came, but it is None, 'leave_one_out' or an array")
        return _mean_of_others(coefficient, groups)
    level = stop_gradient(_like(baseline, coefficient))
    return level[:, None] if level.ndim == 1 else level


def _mean_of_others(returns: A, groups: Groups | None) -> A:
    """For every row, the mean of the other rows of its prompt, position by position."""
    xp = namespace(returns)
    keys = (
        np.zeros(returns.shape[0], dtype=np.int64)
        if groups is None
        else np.unique(to_numpy(groups), return_inverse=True)[1]
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


def _fixed(array: Array, like: A, name: str) -> A:
    """An array of any kind beside another one, at least in float32, without gradient."""
    return stop_gradient(at_least_float32(_like(array, like), name))


def _like(array: Array, like: A) -> A:
    """An array of any kind in the library and on the device of another one."""
    if is_torch(like) and not is_torch(array):
        beside: Any = namespace(like).asarray(np.array(array), device=like.device)
    else:
        beside = namespace(like).asarray(array)
    same: A = beside
    return same
