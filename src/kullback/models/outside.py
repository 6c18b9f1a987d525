"""The probability that a model gives to tokens which the other one does not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kullback.arrays import Float64
from kullback.errors import ModelError
from kullback.models.pairs import only_in
from kullback.models.protocols import DistributionScorer, Reader
from kullback.models.soundness import listed

ROUNDING = 1e-6
"""Mean probability a token up to which it is taken for rounding: a float32 softmax over 150,000 tokens is off by as
much, and the KL by no more than this, in nats a token."""

OUTSIDE = (
    "what is sampled is kept to the tokens that both have, and the KL is from that law to the other model's whole law"
)
"""What the numbers then are."""


@dataclass(frozen=True)
class Outside:
    """What one model gives to tokens outside the shared ones, over the tokens that were scored.

    Attributes:
        tokens: how many were scored.
        total: the probabilities, summed.
        largest: at one token.
    """

    tokens: int = 0
    total: float = 0.0
    largest: float = 0.0

    @property
    def mean(self) -> float:
        """Probability a token."""
        return self.total / self.tokens if self.tokens else 0.0

    def __add__(self, other: Outside) -> Outside:
        return Outside(self.tokens + other.tokens, self.total + other.total, max(self.largest, other.largest))

    def note(self, name: str, other: str) -> str | None:
        """What is to be said of it; None where it is rounding."""
        if self.mean <= ROUNDING:
            return None
        return (
            f"{name} gives {self.mean:.3g} of its probability a token (at most {self.largest:.3g}) to tokens that "
            f"{other} does not have"
        )


def outside_of(columns: Sequence[Float64 | None]) -> Outside:
    """What was measured on some sequences; nothing where a model has no token that the other lacks."""
    found = [column for column in columns if column is not None and len(column)]
    return Outside(
        tokens=sum(map(len, found)),
        total=float(sum(column.sum() for column in found)),
        largest=max((float(column.max()) for column in found), default=0.0),
    )


def check_outside(
    models: tuple[DistributionScorer, DistributionScorer], found: tuple[Outside, Outside], *, allowed: bool
) -> None:
    """Refuse a pair of which one puts more than rounding on tokens that the other lacks, unless that is allowed.

    Raises:
        ModelError: with how much it is and how to go on.
    """
    for (model, other), outside in zip((models, models[::-1]), found, strict=True):
        note = outside.note(model.name, other.name)
        if note is not None and not allowed:
            raise ModelError(
                f"{note} ({model.vocab} logits against {other.vocab}): give both models the same rows, or allow it "
                "with --allow-outside-mass (allow_outside_mass=True), and the KL is over the tokens they share"
            )


def pair_notes(policy: Reader, reference: Reader) -> Iterator[str]:
    """Tokens that only one of the two has a name for."""
    for model, other in ((policy, reference), (reference, policy)):
        names = only_in(model, other)
        if names:
            yield f"{model.name} has tokens that {other.name} has no name for: {listed(names)}"
