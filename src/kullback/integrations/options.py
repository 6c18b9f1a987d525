"""What the KL of a trainer is to be, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from kullback.errors import InputError
from kullback.estimators import K1, RAO_BLACKWELL, Estimator, member
from kullback.integrations.units import BetaUnit, checked_unit
from kullback.losses import kl_loss, kl_reward
from kullback.losses.objectives import objective_of
from kullback.targets import REVERSE_KL, Target
from kullback.weights import Truncation

Placement = Literal["loss", "reward"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A KL term: whose gradient, by what estimate, where, and how strong.

    Attributes:
        objective: what the gradient is of.
        estimator: what its value is estimated by.
        placement: "loss" or "reward".
        baseline: what is subtracted from the score's coefficient.
        unit: what β multiplies.
        truncate: how importance weights are capped.
    """

    objective: Target
    estimator: Estimator
    placement: Placement
    baseline: Literal["leave_one_out"] | None
    unit: BetaUnit
    truncate: Truncation | float | str | None

    @property
    def exact(self) -> bool:
        """Whether the whole vocabulary is summed over."""
        return self.estimator is RAO_BLACKWELL

    @property
    def direction(self) -> Literal["reverse", "forward"]:
        """Of the exact KL at a prefix."""
        return "reverse" if objective_of(self.objective).reverse else "forward"


def options(
    beta: float,
    *,
    objective: Target | None,
    estimator: Estimator | str = K1,
    placement: str = "loss",
    baseline: str | None = None,
    unit: str | None,
    truncate: Truncation | float | str | None = None,
) -> Options:
    """The options, as every integration takes them.

    Raises:
        InputError: nothing says whose gradient or which unit, or what came fits no term.
    """
    if objective is None:
        raise InputError(
            f"beta={beta:g} came without kl_objective: pass kullback.REVERSE_KL, or another one that kullback.kl_loss "
            "can follow"
        )
    if placement not in get_args(Placement):
        raise InputError(f"kl_placement={placement!r} came, but it is 'loss' or 'reward'")
    if baseline not in (None, "leave_one_out"):
        raise InputError(f"kl_baseline={baseline!r} came, but it is None or 'leave_one_out'")
    found = Options(
        objective=objective,
        estimator=member(estimator),
        placement="loss" if placement == "loss" else "reward",
        baseline=None if baseline is None else "leave_one_out",
        unit=checked_unit(unit, beta),
        truncate=truncate,
    )
    _tried(found)
    return found


def _tried(wanted: Options) -> None:
    """What no term can follow is refused by the term itself, on one token."""
    import torch

    one: Any = torch.full((2, 1), -0.5)
    if wanted.placement == "loss":
        kl_loss(
            one,
            one,
            objective=wanted.objective,
            estimator=K1 if wanted.exact else wanted.estimator,
            token_kl=torch.zeros(2, 1) if wanted.exact else None,
            truncate=wanted.truncate,
        )
        return
    if wanted.objective is not REVERSE_KL:
        raise InputError(
            f"kl_objective={wanted.objective.name} came with kl_placement='reward', but a reward follows the gradient "
            "of kullback.REVERSE_KL and of no other: pass that, or kl_placement='loss'"
        )
    if wanted.baseline is not None or wanted.truncate is not None:
        raise InputError(
            "kl_baseline and kl_truncate are for kl_placement='loss': in the reward the trainer's own baseline and "
            "clipping act on the KL too"
        )
    kl_reward(one, one, estimator=wanted.estimator)
