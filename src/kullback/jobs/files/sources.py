"""What the files of a dump say about themselves: laws, rounding steps, formats; and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kullback.documents import Number, Record, text_of
from kullback.jobs.files.questions import COLUMN, Question, Side
from kullback.jobs.files.samples import Samples
from kullback.jobs.files.tally import Answer
from kullback.rollouts import Law, Metadata

LAWS: Mapping[Law, str] = {
    "raw": "raw (the model's softmax)",
    "temperature": "at the sampling temperature",
    "processed": "after top-p, top-k or the like",
    "unknown": "not known whether raw or at a temperature",
}


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        path: its name.
        format: of what kind.
        law: of each log-prob column that it has.
        quantum: the step in nats to which each was rounded; None where not known.
    """

    path: str
    format: str
    law: Mapping[str, Law]
    quantum: Mapping[str, float | None]

    @classmethod
    def of(cls, path: str, format: str, said: Metadata, samples: Samples) -> Source:
        """Of the columns that rows which count have."""
        return cls(
            path=path,
            format=format,
            law={name: said.law.get(name, "unknown") for name in samples.columns},
            quantum={name: said.quantum.get(name) for name in samples.columns},
        )

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        return {"path": self.path, "format": self.format, "law": dict(self.law), "quantum": dict(self.quantum)}


def laws_of(sources: Sequence[Source], side: Side) -> tuple[Law, ...]:
    """The laws that the files have of a column, each once."""
    column = COLUMN[side]
    return tuple(dict.fromkeys(source.law[column] for source in sources if column in source.law))


def law_notes(sources: Sequence[Source], question: Question) -> Iterator[str]:
    """A sentence where a KL is of laws of two kinds."""
    first, second = (laws_of(sources, side) for side in (question.first, question.second))
    if len(first) == 1 == len(second) and first != second and "unknown" not in (*first, *second):
        yield (
            f"{question.title} is between laws of two kinds: {question.first} {LAWS[first[0]]}, {question.second} "
            f"{LAWS[second[0]]}; part of it is that setting and not the models"
        )
    for side, laws in ((question.first, first), (question.second, second)):
        if len(laws) > 1:
            yield f"the files have the {side}'s log-probs by different laws: {', '.join(map(str, laws))}"


def floor_of(first: float | None, second: float | None) -> float:
    """What rounding alone makes of a KL of 0, nats a token: (a² + b²)/24 for steps a and b of the two columns.

    Each rounded log-prob is off by a variance of step²/12, and a small KL is half the mean square of the log-ratio.

    Example:
        >>> round(floor_of(0.03125, 0.03125), 7), floor_of(None, None)
        (8.14e-05, 0.0)
    """
    return ((first or 0.0) ** 2 + (second or 0.0) ** 2) / 24.0


def step_of(sources: Sequence[Source], side: Side) -> float | None:
    """The coarsest rounding step that a file has in a column."""
    steps = [step for source in sources if (step := source.quantum.get(COLUMN[side])) is not None]
    return max(steps, default=None)


def floor_notes(sources: Sequence[Source], answer: Answer) -> Iterator[str]:
    """A sentence where a KL is no more than twice what rounding alone makes of 0."""
    question, found = answer.question, answer.estimates.get("token")
    if found is None:
        return
    steps = {side: step_of(sources, side) for side in (question.first, question.second)}
    floor = floor_of(*steps.values())
    if floor > 0 and found.value <= 2.0 * floor:
        rounded = " and ".join(f"the {side}'s to {step:.3g}" for side, step in steps.items() if step)
        yield (
            f"{question.title} may be rounding: log-probs are rounded, {rounded} nats, which alone gives "
            f"{text_of(Number(floor, '.2g'))} nats a token where there is no KL"
        )
