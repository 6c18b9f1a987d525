"""The KL term of a reward: what each token pays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from kullback.arrays import (
    LOGPROBS,
    REF_LOGPROBS,
    A,
    Array,
    Numbers,
    extremes,
    is_jax,
    is_torch,
    namespace,
    place,
    read,
    stop_gradient,
    to_numpy,
)
from kullback.errors import InputError
from kullback.estimators import Estimator, member
from kullback.losses.rows import Rows
from kullback.targets import REVERSE_KL


def kl_reward(
    logprobs: A | Numbers,
    ref_logprobs: Numbers,
    mask: Numbers | None = None,
    *,
    estimator: Estimator | str,
    allow_biased: bool = False,
) -> A | Array:
    """k(ℓ_t) of every token, detached: the penalty to subtract from the rewards, coefficient times.

    Credited with the sequence's return or the reward-to-go, k1 follows the gradient of KL(q‖p) of sequences.

    Args:
        logprobs, ref_logprobs: log q and log p of the sampled tokens, (batch, time): arrays of any library, or
            lists, as `kullback.estimate` takes them.
        mask: True where a token counts, bool or exactly 0 and 1; the others may hold anything, and get 0.
        estimator: what each token pays, a member of `kullback.ESTIMATORS` or its name.
        allow_biased: take an estimator whose reward gradient is not the reverse KL's all the same.

    Returns:
        (batch, time), in nats, without gradient; NumPy for lists, as wide as the longest row. A token that the
        reference excludes pays inf, and a RuntimeWarning says where. While torch.compile or jax.jit trace, numbers
        cannot be looked at, and one that is refused otherwise makes all of the penalties nan.

    Raises:
        InputError: an estimator that would follow something else than KL(q‖p); a mask that is none, or counted
            numbers that cannot be right, as `kullback.estimate` refuses them.
        ShapeError: arrays that do not have one (batch, time) shape.
        NameUnknownError: no estimator has the name.

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
    if estimator.reads != "log_ratio" or estimator.controls or estimator.link is not None:
        raise InputError(f"{estimator.name} is no function of a token's log-ratio alone, so no token can pay it")
    q, p, counts, poison = _gated(logprobs, ref_logprobs, mask)
    xp = namespace(q)
    zero = xp.zeros_like(q)
    log_ratio = xp.where(counts, q, zero) - xp.where(counts, p, zero)
    with np.errstate(all="ignore"):
        paid = xp.where(counts, estimator.fn(log_ratio), zero)
    if poison is not None:
        return stop_gradient(paid + poison)
    _warn_of_infinity(paid, estimator)
    return stop_gradient(paid)


def _gated(logprobs: Any, ref_logprobs: Any, mask: Any) -> tuple[Array, Array, Array, Array | None]:
    """Both log-probs, where a token counts, and what poisons the rewards while a library traces."""
    if is_torch(logprobs) or is_jax(logprobs):
        rows: Rows[Any] = Rows.of(logprobs, ref_logprobs, mask)
        return rows.policy, rows.reference, rows.mask, rows.poison
    bounds = {"logprobs": LOGPROBS, "ref_logprobs": REF_LOGPROBS}
    arrays, counts = read({"logprobs": logprobs, "ref_logprobs": ref_logprobs}, mask, bounds)
    q, p = (_floats(arrays[name]) for name in bounds)
    return q, p, counts, None


def _floats(x: np.ndarray) -> np.ndarray:
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def _warn_of_infinity(paid: Array, estimator: Estimator) -> None:
    low, high = extremes(paid)
    if np.isfinite(low) and np.isfinite(high):
        return
    odd = ~np.isfinite(to_numpy(paid))
    row, token = place(odd)
    warnings.warn(
        f"{estimator.name} is {to_numpy(paid)[row, token]:g} for {int(odd.sum())} token(s), the first in row {row} at "
        f"position {token}: the reference gives (almost) no probability to what was drawn",
        RuntimeWarning,
        stacklevel=3,
    )
