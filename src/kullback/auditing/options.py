"""How a function is meant: where its result goes, what drew the samples, what its parameters take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from kullback.auditing.subject.layouts import Layout
from kullback.errors import InputError, shown
from kullback.targets import Target

Placement = Literal["loss", "reward", "bonus", "metric"]
Role = Literal["value", "surrogate"]
Credit = Literal["return", "reward_to_go", "own_token"]
Sampler = Literal["on_policy", "off_policy", "from_reference"]

PLACEMENTS: tuple[Placement, ...] = ("loss", "reward", "bonus", "metric")
ROLES: tuple[Role, ...] = ("value", "surrogate")
"""Whether the number counts as well as its gradient, or the gradient alone."""
CREDITS: tuple[Credit, ...] = ("return", "reward_to_go", "own_token")
SAMPLERS: tuple[Sampler, ...] = ("on_policy", "off_policy", "from_reference")
"""What drew the sequences: the policy, another policy, or the reference."""
LEVELS = (None, "token", "sequence")
LAYOUTS: tuple[Layout, ...] = ("padded", "ragged", "packed")

Name = TypeVar("Name", bound=str | None)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one audit, as `kullback.audit` explains them.

    Attributes:
        placement: "loss", "reward", "bonus" or "metric".
        names: the column that a parameter takes.
        settings: values of further parameters.
        credit: in the reward, what a token's log-prob is credited with.
        level: "sequence" for a function of sums over tokens.
        sampler: what draws the sequences.
        objective: the target that is meant.
        arrays: "torch", "jax" or "numpy".
        output: which element of a tuple or dict is the KL.
        role: "value", or "surrogate" where the gradient alone counts.
        layout: how the rows of a batch lie in memory.
    """

    placement: Placement
    names: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    credit: Credit = "return"
    level: str | None = None
    sampler: Sampler = "on_policy"
    objective: Target | None = None
    arrays: str = "torch"
    output: int | str | None = None
    role: Role = "value"
    layout: Layout = "padded"

    @property
    def credited(self) -> bool:
        """Whether log-probs carry the result: as a penalty or as what is added."""
        return self.placement in ("reward", "bonus")


def known(option: str, given: str | None, names: tuple[Name, ...]) -> Name:
    """The name that was given, which is one of those there are.

    Raises:
        InputError: it is none of them.
    """
    for name in names:
        if given == name:
            return name
    raise InputError(f"{option}={shown(given)} came, but it is one of {', '.join(repr(name) for name in names)}")
