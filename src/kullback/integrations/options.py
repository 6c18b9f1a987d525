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


def of_drawn_tokens(
    trainer: str,
    *,
    objective: Target,
    estimator: Estimator | str,
    baseline: str | None,
    unit: str,
    truncate: Truncation | float | str | None,
) -> Options:
    """The options of a term in the loss, where a trainer shows log-probs of the drawn tokens and no logits.

    Args:
        trainer: its name, for the error.

    Raises:
        InputError: what `options` refuses, and `RAO_BLACKWELL`.
    """
    if member(estimator) is RAO_BLACKWELL:
        raise InputError(
            f"kl_estimator=rao_blackwell came, but {trainer} shows the KL no logits of the reference: use kullback.K1, "
            "kullback.K3 or kullback.ControlVariate(λ)"
        )
    return options(1.0, objective=objective, estimator=estimator, baseline=baseline, unit=unit, truncate=truncate)


def refuse_unit(wanted: Options, unit: BetaUnit, because: str) -> None:
    """Let β pass in the unit to which the trainer divides.

    Args:
        unit: of the trainer's own division.
        because: the options that make it so.

    Raises:
        InputError: the other one came.
    """
    if wanted.unit != unit:
        raise InputError(
            f"kl_beta_unit={wanted.unit!r} came with {because}, with which the trainer divides the loss to nats a "
            f"{unit}: pass kl_beta_unit={unit!r}, or change that option"
        )


def _tried(wanted: Options) -> None:
    """What no term can follow is refused by the term itself, on one token."""
    try:
        import torch as library
    except ModuleNotFoundError:  # a trainer in JAX
        import jax.numpy as library  # type: ignore[no-redef]

    one: Any = library.full((2, 1), -0.5)
    if wanted.placement == "loss":
        kl_loss(
            one,
            one,
            objective=wanted.objective,
            estimator=K1 if wanted.exact else wanted.estimator,
            token_kl=library.zeros((2, 1)) if wanted.exact else None,
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
