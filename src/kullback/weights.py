"""Importance weights for samples that another policy drew, and the ways to tame them.

With ρ_t = q_t/μ_t, a function of the first t tokens is weighted by the prefix-cumulative ratio
ρ_{1:t} = Π_{i≤t} ρ_i, which makes sums over tokens unbiased for the policy q although μ drew them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from kullback.arrays import A, Elementwise, cumulative_sum, digits, namespace, number
from kullback.errors import InputError, shown

__all__ = ["SELF_NORMALISED", "Masked", "Truncated", "Truncation", "cumulative_weights"]


@dataclass(frozen=True)
class Truncation:
    """A change of the weights that trades variance for a declared bias.

    Attributes:
        name: what it is called.
        fn: new weights from the prefix-cumulative ones.
        bias: what it does to an expectation, in words.
        self_normalised: divide by the sum of the weights instead of by the number of sequences.

    Example:
        >>> import kullback as kb
        >>> kb.weights.SELF_NORMALISED.bias
        'divided by the sum of the weights: biased by O(1/n)'
    """

    name: str
    fn: Elementwise
    bias: str
    self_normalised: bool = False


def _cap_of(cap: float) -> float:
    words = "an importance weight is capped at a positive number that is finite"
    limit = number("cap", cap, words)
    if limit <= 0:
        raise InputError(f"cap={shown(cap)} came, but {words}")
    return limit


def _capped(weight: A, limit: float) -> A:
    return namespace(weight).clip(weight, 0.0, limit)


def _kept(weight: A, limit: float) -> A:
    return namespace(weight).where(weight <= limit, weight, 0.0)  # not 0·weight: nan where it overflows


def _unchanged(weight: A) -> A:
    return weight


def Truncated(cap: float) -> Truncation:
    """min(ρ, cap): non-negative summands are biased low by E[(ρ − cap)₊ k].

    Args:
        cap: the largest weight, above 0.

    Raises:
        InputError: a cap that is not positive and finite.

    Example:
        >>> import kullback as kb, numpy as np
        >>> kb.weights.Truncated(2.0).fn(np.array([0.5, 1.0, 3.0]))
        array([0.5, 1. , 2. ])
    """
    limit = _cap_of(cap)
    return Truncation(
        name=f"truncated_{digits(limit)}",
        fn=partial(_capped, limit=limit),
        bias=f"weights above {digits(limit)} count as {digits(limit)}: biased by −E[(ρ − {digits(limit)})₊ k]",
    )


def Masked(cap: float) -> Truncation:
    """ρ·1{ρ ≤ cap}: biased by −E[ρ k 1{ρ > cap}], the part of the policy that is thrown away.

    Args:
        cap: the largest weight that counts, above 0.

    Raises:
        InputError: a cap that is not positive and finite.

    Example:
        >>> import kullback as kb, numpy as np
        >>> kb.weights.Masked(2.0).fn(np.array([0.5, 1.0, 3.0]))
        array([0.5, 1. , 0. ])
    """
    limit = _cap_of(cap)
    return Truncation(
        name=f"masked_{digits(limit)}",
        fn=partial(_kept, limit=limit),
        bias=f"weights above {digits(limit)} count as 0: biased by −E[ρ k 1{{ρ > {digits(limit)}}}]",
    )


SELF_NORMALISED = Truncation(
    name="self_normalised",
    fn=_unchanged,
    bias="divided by the sum of the weights: biased by O(1/n)",
    self_normalised=True,
)


def truncation(truncate: Truncation | float | str | None) -> Truncation | None:
    """What an option `truncate` means: a number is the cap of the weights, None changes none.

    Raises:
        InputError: a cap that is not positive and finite, or a name that is none.

    Example:
        >>> from kullback.weights import truncation
        >>> truncation(2).name, truncation(None)
        ('truncated_2', None)
    """
    if isinstance(truncate, str):
        if truncate == SELF_NORMALISED.name:
            return SELF_NORMALISED
        raise InputError(
            f"truncate={shown(truncate)} came, but it is a number (the cap of the weights), 'self_normalised', or "
            "kullback.weights.Truncated(cap), Masked(cap) or SELF_NORMALISED"
        )
    return truncate if isinstance(truncate, Truncation | None) else Truncated(truncate)


def cumulative_weights(log_weights: A) -> tuple[A, A]:
    """ρ_{1:t} and ρ_{1:t−1} from per-token log-weights (batch, time) that are 0 at masked tokens.

    Example:
        >>> import kullback as kb, numpy as np
        >>> kb.weights.cumulative_weights(np.log([[2.0, 0.5]]))
        (array([[2., 1.]]), array([[1., 2.]]))
    """
    xp = namespace(log_weights)
    total = cumulative_sum(log_weights)
    # Not 0·total: a first token that the policy excludes has −∞, and 0·∞ is nan.
    before = xp.concat([xp.zeros_like(total[..., :1]), total[..., :-1]], axis=-1)
    return xp.exp(total), xp.exp(before)
