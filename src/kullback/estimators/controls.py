"""Controls: quantities of known mean zero that an estimator may subtract to lose variance.

Each is a martingale difference: given the prefix its mean is zero exactly, so any multiple of its sum
leaves an expectation as it was, as long as the coefficient does not look at the sequence it is used on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.block import Tokens
from kullback.families import Family


@dataclass(frozen=True)
class Control:
    """A function of a token whose mean given the prefix is zero.

    Attributes:
        name: what estimators call it.
        formula: how it is written.
        fn: its value at every token.
        needs_token_kl: whether it reads the exact token KL.
    """

    name: str
    formula: str
    fn: Callable[[Tokens], Float64]
    needs_token_kl: bool = False


def _ratio(tokens: Tokens) -> Float64:
    # The reference's mass where the policy is cut off (top-p, top-k) is never sampled: E[r] = ref_mass.
    return tokens.weight * np.expm1(-tokens.log_ratio) + (tokens.weight - tokens.before * tokens.ref_mass)


def _martingale(tokens: Tokens) -> Float64:
    return tokens.weight * tokens.log_ratio - tokens.before * tokens.token_kl


RATIO = Control("ratio", "r_t − p_t(supp q_t)", _ratio)
MARTINGALE = Control("martingale", "ℓ_t − KL_t", _martingale, needs_token_kl=True)

CONTROLS = Family((RATIO, MARTINGALE))
