"""Controls: quantities of known mean zero that an estimator may subtract to lose variance.

Each is a martingale difference: given the prefix its mean is zero exactly, so any multiple of its sum
leaves an expectation as it was, as long as the coefficient does not look at the sequence it is used on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kullback.arrays import Float64
from kullback.families import Family


class Columns(Protocol):
    """What a control may read of the tokens, arrays of one shape."""

    @property
    def log_ratio(self) -> Float64:
        """ℓ."""
        ...

    @property
    def token_kl(self) -> Float64:
        """KL(q_t‖p_t) at the token's prefix."""
        ...

    @property
    def ref_mass(self) -> Float64:
        """The reference's probability of the tokens that the policy does not exclude."""
        ...

    @property
    def weight(self) -> Float64:
        """ρ_{1:t}, the importance weight of what is known with the token."""
        ...

    @property
    def before(self) -> Float64:
        """ρ_{1:t−1}, the importance weight of what is known without it."""
        ...


@dataclass(frozen=True)
class Control:
    """A function of a token whose mean given the prefix is zero.

    Attributes:
        name: what coefficients are called by.
        formula: how it is written.
        fn: its value at every token.
        needs_token_kl: whether it reads the exact token KL.
    """

    name: str
    formula: str
    fn: Callable[[Columns], Float64]
    needs_token_kl: bool = False

    def __repr__(self) -> str:
        return f"<control {self.name}>"


def _ratio(tokens: Columns) -> Float64:
    # The reference's mass where the policy is cut off (top-p, top-k) is never sampled: E[r] = ref_mass.
    return tokens.weight * np.expm1(-tokens.log_ratio) + (tokens.weight - tokens.before * tokens.ref_mass)


def _martingale(tokens: Columns) -> Float64:
    return tokens.weight * tokens.log_ratio - tokens.before * tokens.token_kl


RATIO = Control(name="ratio", formula="r_t − p_t(supp q_t)", fn=_ratio)
MARTINGALE = Control(name="martingale", formula="ℓ_t − KL_t", fn=_martingale, needs_token_kl=True)

CONTROLS = Family((RATIO, MARTINGALE))
