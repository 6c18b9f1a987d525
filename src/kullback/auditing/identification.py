"""What a value or a gradient was found to be: a named target, how many times, or how far from the nearest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kullback.auditing import words
from kullback.documents import Record
from kullback.targets import ZERO, Target

if TYPE_CHECKING:
    from kullback.auditing.expectations import Weight


@dataclass(frozen=True)
class Identification:
    """What a value or a gradient is.

    Attributes:
        target: the target it equals `scale` times in every world, or None.
        scale: how many times; for the nearest one the best fit over the worlds.
        weight: "sequence"; "length" where it is so only after each sequence's result is multiplied by its own
            length, "width" by the padded width, "words" by the size of the vocabulary, "cells" by both: the function
            divides by it.
        nearest: the target it equals, or else comes nearest to: KL(q‖p), unless another one is twice as near.
        relative_error: the largest of `errors`.
        errors: |got − target|/|target| by world, to `scale` × `target` or, where there is none, to `nearest`.
        cosine: between gradients, the smallest over the worlds; 1 or −1 for values.
        one_token: the target it equals where sequences have one token.
        one_token_scale: how many times.
        within: the target it equals in the worlds that are not far, where no clamp binds, if not in all.
        within_scale, within_weight: how many times, and as for `weight`.
        growth: (KL(q‖p), relative error) as the same models move apart; empty where a target is met.
        got: E by world, for values.
    """

    target: Target | None
    scale: float
    nearest: Target
    relative_error: float
    errors: dict[str, float] = field(default_factory=dict)
    cosine: float = 1.0
    weight: Weight = "sequence"
    one_token: Target | None = None
    one_token_scale: float = 1.0
    within: Target | None = None
    within_scale: float = 1.0
    within_weight: Weight = "sequence"
    growth: tuple[tuple[float, float], ...] = ()
    got: dict[str, float] = field(default_factory=dict)

    @property
    def named(self) -> Target | None:
        """The target it equals everywhere, or at least where the models are not far apart."""
        return self.target or self.within

    @property
    def factor(self) -> float:
        """How many times."""
        return self.scale if self.target is not None or self.within is None else self.within_scale

    @property
    def per(self) -> Weight:
        """What it divides by, where a target was found."""
        return self.weight if self.target is not None else self.within_weight

    @property
    def exact(self) -> bool:
        """Whether it is a target itself: once, and over sequences."""
        return self.target is not None and self.scale == 1.0 and self.weight == "sequence"

    @property
    def follows(self) -> bool:
        """Whether it is a target, or a positive multiple of one, over sequences."""
        return self.target not in (None, ZERO) and self.scale > 0 and self.weight == "sequence"

    def __str__(self) -> str:
        return words.identity(self)

    def to_dict(self) -> Record:
        """For JSON."""
        return {
            "target": self.target and self.target.name,
            "scale": self.scale,
            "per": self.weight,
            "nearest": self.nearest.name,
            "relative_error": self.relative_error,
            "cosine": self.cosine,
            "errors": self.errors,
            "within": self.within and self.within.name,
            "one_token": self.one_token and self.one_token.name,
            "growth": [{"kl": kl, "relative_error": error} for kl, error in self.growth],
        }


@dataclass(frozen=True)
class Distance:
    """How far a value or a gradient is from the target that was meant.

    Attributes:
        target: the one that was meant.
        errors: |got − target|/|target| by world.
        cosines: between the two, by world.
    """

    target: Target
    errors: dict[str, float]
    cosines: dict[str, float]

    @property
    def least(self) -> float:
        """The smallest error over the worlds."""
        return min(self.errors.values(), default=0.0)

    @property
    def most(self) -> float:
        """The largest one."""
        return max(self.errors.values(), default=0.0)

    @property
    def cosine(self) -> float:
        """The smallest cosine over the worlds."""
        return min(self.cosines.values(), default=1.0)

    def to_dict(self) -> Record:
        """For JSON."""
        return {
            "target": self.target.name,
            "relative_error": self.most,
            "cosine": self.cosine,
            "errors": self.errors,
        }


UNKNOWN = Identification(None, float("nan"), ZERO, float("inf"), cosine=0.0)
"""What stands for a value or a gradient that was not computed."""
