"""What a loss can follow, and how its tokens are weighted."""

from __future__ import annotations

from dataclasses import dataclass

from kullback.errors import InputError, shown
from kullback.families import Family
from kullback.targets import (
    FORWARD_KL,
    REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_REVERSE_KL,
    Target,
)


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


def objective_of(target: Target) -> Objective:
    """The objective with the target.

    Raises:
        InputError: no objective has it.
    """
    for objective in OBJECTIVES:
        if objective.target is target or objective.target == target:
            return objective
    raise InputError(
        f"objective={shown(target)} came, but it is one of kullback.REVERSE_KL, FORWARD_KL, STATEWISE_REVERSE_KL "
        "and STATEWISE_FORWARD_KL"
    )
