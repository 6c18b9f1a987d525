"""What the files of a dump say about themselves: laws, rounding steps, formats; and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kullback.documents import Number, Record, text_of
from kullback.jobs.files.questions import COLUMN, Question, Side
from kullback.jobs.files.samples import Samples
from kullback.jobs.files.tally import Answer
from kullback.rollouts import Law, Metadata
from kullback.rollouts.quanta import Copy, floor

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
        quantum: the step in nats to which each was rounded, as the file says or its numbers show; None where neither.
        rounded: the same in words, for the columns in whose numbers it shows.
        copy: how often the reference is the policy rounded, where it mostly is.
    """

    path: str
    format: str
    law: Mapping[str, Law]
    quantum: Mapping[str, float | None]
    rounded: Mapping[str, str]
    copy: Copy | None

    @classmethod
    def of(cls, path: str, format: str, said: Metadata, samples: Samples) -> Source:
        """Of the columns that rows which count have."""
        laws = {name: said.law.get(name, "unknown") for name in samples.columns}
        seen = {name: samples.rounding(name) for name in samples.columns}
        steps = {name: None if one is None else one.step for name, one in seen.items()}
        return cls(
            path=path,
            format=format,
            law={name: samples.law(name) if law == "unknown" else law for name, law in laws.items()},
            quantum={name: said.quantum.get(name, step) for name, step in steps.items()},
            rounded={name: one.words for name, one in seen.items() if one is not None},
            copy=samples.copy,
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


def step_of(sources: Sequence[Source], side: Side) -> float | None:
    """The coarsest rounding step that a file has in a column."""
    steps = [step for source in sources if (step := source.quantum.get(COLUMN[side])) is not None]
    return max(steps, default=None)


def rounded_as(sources: Sequence[Source], side: Side) -> str:
    """To what a column was rounded, in words; "" where it is not known to be."""
    words = dict.fromkeys(source.rounded[COLUMN[side]] for source in sources if COLUMN[side] in source.rounded)
    step = step_of(sources, side)
    return ", ".join(words) or (f"steps of {step:.3g}" if step else "")


def floor_notes(sources: Sequence[Source], answer: Answer) -> Iterator[str]:
    """A sentence where a KL is no more than twice what rounding alone makes of 0, or is nothing but rounding."""
    question, found = answer.question, answer.estimates.get("token")
    copy = next((source.copy for source in sources if source.copy is not None), None)
    if copy is not None and question.needs == {"policy", "reference"}:
        yield (
            f"{question.title} is rounding: at {copy.count:,} of {copy.of:,} tokens the reference's log-prob is the "
            f"policy's, rounded to {copy.kind}"
        )
        return
    if found is None:
        return
    steps = {side: step_of(sources, side) or 0.0 for side in (question.first, question.second)}
    least = floor(*steps.values())
    if least > 0 and found.value <= 2.0 * least:
        rounded = " and ".join(f"the {side}'s to {rounded_as(sources, side)}" for side, step in steps.items() if step)
        yield (
            f"{question.title} may be rounding: log-probs are rounded, {rounded}, which alone gives about "
            f"{text_of(Number(least, '.2g'))} nats a token where there is no KL"
        )
