"""The KL term of a loss, whose gradient is the objective's."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np

from kullback.arrays import (
    A,
    Bounds,
    Groups,
    Namespace,
    Numbers,
    at_least_float32,
    check,
    cumulative_sum,
    group_numbers,
    namespace,
    place,
    stop_gradient,
    to_numpy,
)
from kullback.errors import InputError, shown
from kullback.estimators import K1, RAO_BLACKWELL, Estimator, member
from kullback.losses.objectives import Objective, objective_of
from kullback.losses.rows import Rows, beside, is_finite, same_shape
from kullback.losses.token_value import TokenValue
from kullback.losses.weighting import Weights
from kullback.targets import REVERSE_KL, Target
from kullback.weights import Truncation, truncation

Baseline = Literal["leave_one_out"]

BASELINE = Bounds(-np.inf, np.finfo(np.float64).max, None, "number")


def kl_loss(
    logprobs: A,
    ref_logprobs: Numbers,
    mask: Numbers | None = None,
    *,
    objective: Target,
    estimator: Estimator | str = K1,
    behavior_logprobs: Numbers | None = None,
    token_kl: A | Numbers | None = None,
    baseline: Baseline | TokenValue[A] | Numbers | None = None,
    groups: Groups | None = None,
    truncate: Truncation | float | str | None = None,
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
        ref_logprobs: log p of the same tokens, an array of any library or lists; −inf where the reference excludes
            one. No gradient flows.
        mask: True where a token counts, bool or exactly 0 and 1; the others may hold anything, which touches neither
            value nor gradient. A row without one contributes 0.
        objective: REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL or STATEWISE_FORWARD_KL. There is no default.
        estimator: K1, K3 (or their names) or ControlVariate(λ); applied to −ℓ for the forward objectives.
        behavior_logprobs: log μ of the same tokens where another policy drew them. No gradient flows.
        token_kl: exact, differentiable KL over the vocabulary at each prefix, (batch, time): KL(q_t‖p_t) for the
            reverse objectives, KL(p_t‖q_t) for the forward ones.
        baseline: None; "leave_one_out", the mean over the other samples of the prompt; or the caller's own,
            (batch,) or (batch, time), which must not depend on the row it is used for; or a `kullback.TokenValue`,
            which may depend on the token. It changes the variance of the gradient and nothing else. A mean over the
            same batch is not offered: it shrinks the gradient.
        groups: the prompt of each row, (batch,), for "leave_one_out"; without it all rows have one prompt.
        truncate: a member of `kullback.weights`, or a number: the cap of the weights. Biased, as it declares.

    Returns:
        A scalar. Where the second model of the KL excludes a token that the first one's measure contains, the
        value is inf, the gradient leaves that token out, and a RuntimeWarning says where.

        Values are looked at: a counted number that cannot be right is refused as `kullback.estimate` refuses it. While
        torch.compile, jax.jit or vmap trace they cannot be; there such a number makes the loss and the whole gradient
        nan, and importance weights that overflow make them nan or inf.

    Raises:
        InputError: an objective, estimator, baseline or groups that do not fit, arrays of neither library, a mask
            that is none, a counted number that cannot be right, or importance weights that overflow.
        ShapeError: arrays whose shapes differ or that are empty; nothing is broadcast.

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
    means = objective_of(objective)
    kernel = _kernel(member(estimator), token_kl, means)
    rows = Rows.of(logprobs, ref_logprobs, mask, behavior_logprobs=behavior_logprobs, token_kl=token_kl)
    weights = Weights(rows, means, truncation(truncate))
    terms = _terms(weights, kernel)
    coefficient = _coefficient(weights, kernel, terms)
    given_back = None
    if isinstance(baseline, TokenValue):
        taken, given_back = baseline.terms(rows)
        coefficient = coefficient - taken
    elif baseline is not None:
        coefficient = coefficient - rows.ratio() * _baseline(rows, coefficient, baseline, groups)
    value = rows.mean(terms) if rows.poison is None else rows.mean(terms) + rows.poison
    loss = value + rows.gradient(coefficient, rows.live, rows.policy)
    if given_back is not None:
        loss = loss + given_back
    if rows.live_kl is not None:
        before = None if weights.all_one else weights.before
        loss = loss + rows.gradient(before, rows.live_kl, stop_gradient(rows.live_kl))
    if rows.poison is None:
        _look_at(loss, weights, terms)
    return loss


def _kernel(estimator: Estimator, token_kl: Numbers | None, objective: Objective) -> Estimator:
    """What is applied to a token's gap, where no exact KL takes its place."""
    exact = estimator is RAO_BLACKWELL
    if token_kl is not None and not exact and estimator is not K1:
        raise InputError(f"token_kl and estimator={estimator.name} came: give one of the two")
    if token_kl is not None:
        return K1
    if exact:
        direction = "KL(q_t‖p_t)" if objective.reverse else "KL(p_t‖q_t)"
        raise InputError(f"rao_blackwell needs token_kl=…, the exact {direction} at each prefix, and did not get it")
    if estimator.controls or estimator.value_of["token"] is not REVERSE_KL:
        raise InputError(
            f"estimator={estimator.name} came, but its token values do not sum to a KL that can be differentiated: "
            "use kullback.K1, kullback.K3 or kullback.ControlVariate(λ) with a number"
        )
    return estimator


def _terms(weights: Weights[A], kernel: Estimator) -> A:
    """Each token's part of the value; inf where the second model excludes what the first one's measure reaches."""
    if weights.rows.live_kl is not None:
        return weights.of_prefix(stop_gradient(weights.rows.live_kl))
    return weights.of_gap(kernel, _gap(weights))


def _gap(weights: Weights[A]) -> A:
    rows = weights.rows
    return rows.policy - rows.reference if weights.objective.reverse else rows.reference - rows.policy


def _coefficient(weights: Weights[A], kernel: Estimator, terms: A) -> A:
    """c_t of the gradient Σ_t c_t ∇log q_t; tokens whose term is infinite are left out."""
    rows, exact = weights.rows, weights.rows.live_kl is not None
    xp = rows.xp
    if not weights.objective.reverse:
        own_ratio = xp.exp(rows.log_ratio(rows.policy))
        return xp.zeros_like(terms) if exact else weights.before * own_ratio - weights.token
    finite = terms if rows.finite and kernel is K1 else _finite(terms, xp)
    own = xp.zeros_like(terms) if exact else finite
    if not exact and kernel is not K1:
        # The control λ(r − 1) has mean 0 whatever its own token's log-prob: only what comes before is credited.
        own = _finite(weights.of_token(_gap(weights)), xp)
    if weights.objective.statewise:
        return own
    to_go = xp.flip(cumulative_sum(xp.flip(finite, axis=-1)), axis=-1)
    return to_go if own is finite else to_go - finite + own


def _finite(values: A, xp: Namespace) -> A:
    return xp.where(is_finite(values, xp), values, 0.0)


def _baseline(rows: Rows[A], coefficient: A, baseline: Baseline | Numbers, groups: Groups | None) -> A:
    """What is subtracted from c_t, times ρ_{1:t}: its part of the gradient has mean 0 if it does not see the row."""
    if isinstance(baseline, str):
        if baseline != "leave_one_out":
            raise InputError(f"baseline={shown(baseline)} came, but it is None, 'leave_one_out' or an array")
        return _mean_of_others(coefficient, groups)
    level = stop_gradient(at_least_float32(beside(baseline, coefficient), "baseline"))
    same_shape("baseline", level, tuple(coefficient.shape))
    level = rows.kept(level[:, None] + rows.xp.zeros_like(coefficient) if level.ndim == 1 else level)
    if rows.poison is None:
        check("baseline", level, rows.mask, BASELINE)
    return level


def _mean_of_others(returns: A, groups: Groups | None) -> A:
    """For every row, the mean of the other rows of its prompt, position by position."""
    xp = namespace(returns)
    rows = returns.shape[0]
    keys = np.zeros(rows, dtype=np.intp) if groups is None else group_numbers(groups, rows)
    counts = np.bincount(keys)
    if (counts < 2).any():
        raise InputError(
            "leave_one_out needs at least two samples of every prompt, and a prompt came with one: "
            "sample more, or use baseline=None"
        )
    same = (keys[:, None] == keys[None, :]) & ~np.eye(len(keys), dtype=bool)
    share = same / (counts[keys] - 1)[:, None]
    return xp.matmul(xp.astype(beside(share, returns), returns.dtype), returns)


def _look_at(loss: A, weights: Weights[A], terms: A) -> None:
    """Refuse a loss that overflowed, and warn of one that is infinite because a support is missing.

    Raises:
        InputError: importance weights beyond the dtype, or sums of them.
    """
    total = float(stop_gradient(loss))
    if np.isfinite(total):
        return
    rows = weights.rows
    ratios = to_numpy(rows.xp.exp(cumulative_sum(rows.log_ratio(rows.policy)))) if rows.behavior is not None else None
    if ratios is not None and np.isinf(ratios).any() and not np.isfinite(to_numpy(weights.token)).all():
        row, token = place(np.isinf(ratios))
        raise InputError(
            f"the importance weight q/μ of row {row} overflows {loss.dtype} at position {token}: behavior_logprobs "
            "are not those of what drew the tokens; mend them, or cap the weights with truncate=…"
        )
    infinite = np.isinf(to_numpy(terms))
    if not infinite.any() or np.isnan(total):
        raise InputError(f"the loss is {total:g}: the log-ratios are too large for {loss.dtype}")
    row, token = place(infinite)
    warnings.warn(
        f"the loss is inf: one model gives (almost) no probability to {int(infinite.sum())} token(s) of the other's, "
        f"the first in row {row} at position {token}; the gradient leaves them out",
        RuntimeWarning,
        stacklevel=3,
    )
