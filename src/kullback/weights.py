"""Importance weights for samples that another policy drew, and the ways to tame them.

With ρ_t = q_t/μ_t, a function of the first t tokens is weighted by the prefix-cumulative ratio
ρ_{1:t} = Π_{i≤t} ρ_i, which makes sums over tokens unbiased for the policy q although μ drew them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kullback.arrays import A, Array, cumulative_sum, namespace
from kullback.errors import InputError

__all__ = ["SELF_NORMALISED", "Masked", "Truncated", "Truncation", "cumulative_weights"]


@dataclass(frozen=True)
class Truncation:
    """A change of the weights that trades variance for a declared bias.

    Attributes:
        name: what it is called.
        fn: new weights from the prefix-cumulative ones.
        bias: what it does to an expectation, in words.
        self_normalised: divide by the sum of the weights instead of by the number of sequences.
    """

    name: str
    fn: Callable[[Array], Array]
    bias: str
    self_normalised: bool = False


def _cap_of(cap: float) -> float:
    if not cap > 0:
        raise InputError(f"cap={cap!r} came, but an importance weight is capped at a positive number")
    return float(cap)


def Truncated(cap: float) -> Truncation:
    """min(ρ, cap): non-negative summands are biased low by E[(ρ − cap)₊ k]."""
    limit = _cap_of(cap)
    return Truncation(
        f"truncated_{limit:g}",
        lambda w: namespace(w).clip(w, 0.0, limit),
        f"weights above {limit:g} count as {limit:g}: biased by −E[(ρ − {limit:g})₊ k]",
    )


def Masked(cap: float) -> Truncation:
    """ρ·1{ρ ≤ cap}: biased by −E[ρ k 1{ρ > cap}], the part of the policy that is thrown away."""
    limit = _cap_of(cap)
    return Truncation(
        f"masked_{limit:g}",
        lambda w: namespace(w).where(w <= limit, w, 0.0 * w),
        f"weights above {limit:g} count as 0: biased by −E[ρ k 1{{ρ > {limit:g}}}]",
    )


SELF_NORMALISED = Truncation(
    "self_normalised",
    lambda w: w,
    "divided by the sum of the weights: biased by O(1/n)",
    self_normalised=True,
)


def cumulative_weights(log_weights: A) -> tuple[A, A]:
    """ρ_{1:t} and ρ_{1:t−1} from per-token log-weights (batch, time) that are 0 at masked tokens."""
    xp = namespace(log_weights)
    total = cumulative_sum(log_weights)
    # Not 0·total: a first token that the policy excludes has −∞, and 0·∞ is nan.
    before = xp.concat([xp.zeros_like(total[..., :1]), total[..., :-1]], axis=-1)
    return xp.exp(total), xp.exp(before)
