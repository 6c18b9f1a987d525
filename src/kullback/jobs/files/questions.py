"""What can be asked of rows with two or three laws: which law is how far from which."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["policy", "reference", "sampler"]

COLUMN: Mapping[Side, str] = {"policy": "logprobs", "reference": "ref_logprobs", "sampler": "behavior_logprobs"}
"""Where the log-probs of a law stand in a row."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """KL(first‖second), and what one learns from it.

    Attributes:
        name: as JSON has it.
        first, second: the two laws.
        meaning: for people.
        of_two: whether it is asked only where there are no three laws.
    """

    name: str
    first: Side
    second: Side
    meaning: str
    of_two: bool = False

    @property
    def title(self) -> str:
        """As it is written."""
        return f"KL({self.first}‖{self.second})"

    @property
    def needs(self) -> frozenset[Side]:
        """The laws that a row has to have."""
        return frozenset((self.first, self.second))

    def beside(self, sides: Collection[Side]) -> bool:
        """Whether it is asked for comparison only, where rows with these laws answer nearer questions."""
        return len(set(sides)) > 2 and self.name == "sampler_reference"


QUESTIONS: tuple[Question, ...] = (
    Question(
        name="policy_reference",
        first="policy",
        second="reference",
        meaning="how far training has moved the policy from its reference",
    ),
    Question(
        name="sampler_policy",
        first="sampler",
        second="policy",
        meaning="how far what drew the tokens (an inference engine, older weights) is from the policy that was scored",
    ),
    Question(
        name="sampler_reference",
        first="sampler",
        second="reference",
        meaning="how far what drew the tokens is from the reference",
    ),
    Question(
        name="reference_policy", first="reference", second="policy", meaning="the other direction, by reweighting"
    ),
    Question(name="policy_sampler", first="policy", second="sampler", meaning="the other direction, by reweighting"),
    Question(
        name="reference_sampler",
        first="reference",
        second="sampler",
        meaning="the other direction, by reweighting",
        of_two=True,
    ),
)
"""In the order in which answers stand."""


def askable(sides: Collection[Side]) -> tuple[Question, ...]:
    """The questions that rows with these laws answer."""
    three = len(set(sides)) > 2
    return tuple(one for one in QUESTIONS if one.needs <= set(sides) and not (three and one.of_two))


def missing_sentence(sides: Sequence[Side], path: str) -> str:
    """What to do about rows of one law."""
    only = {"sampler": "what drew the tokens", "policy": "the policy", "reference": "the reference"}[sides[0]]
    return (
        f"{path} has the log-probs of {only} alone, and a KL needs a second law on the same tokens: "
        f"kullback score {path} --reference MODEL scores them under a model where their token ids are known, or "
        f"kullback estimate {path} OTHER_FILE joins them with a file that has it"
    )
