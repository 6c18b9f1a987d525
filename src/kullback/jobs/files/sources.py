"""What the files of a dump say about themselves: laws, rounding steps, formats; and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp

from kullback.documents import Number, Record, text_of
from kullback.jobs.files.questions import COLUMN, Question, Side
from kullback.jobs.files.samples import Likeliest, Samples
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
        temperature: at which the tokens were drawn; None where that is not known.
        likeliest: how often what was drawn is the first of its list.
        echoed: whether a row is a prompt and its completion as one.
    """

    path: str
    format: str
    law: Mapping[str, Law]
    quantum: Mapping[str, float | None]
    rounded: Mapping[str, str]
    copy: Copy | None
    temperature: float | None = None
    likeliest: Likeliest = field(default_factory=Likeliest)
    echoed: bool = False

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token was taken at each place, and nothing sampled."""
        return self.temperature == 0 or self.likeliest.greedy

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
            temperature=_temperature(said),
            likeliest=samples.likeliest,
            echoed=samples.echoed,
        )

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        return {"path": self.path, "format": self.format, "law": dict(self.law), "quantum": dict(self.quantum)}


def _temperature(said: Metadata) -> float | None:
    """Of what drew the tokens: the sampler, or the policy where nothing is said of one."""
    drew = said.behavior or said.policy
    return None if drew is None else drew.sampling.get("temperature")


def drawing_notes(sources: Sequence[Source], answers: Sequence[Answer]) -> Iterator[str]:
    """A sentence where the tokens were not drawn from the law whose log-probs stand here."""
    if any(source.greedy for source in sources):
        seen = sum((source.likeliest for source in sources), Likeliest())
        how = (
            "at temperature 0"
            if any(source.temperature == 0 for source in sources)
            else f"all {seen.of:,} stand first in their lists, which sampling at temperature 1 would do with "
            f"probability {text_of(Number(exp(seen.log_chance), '.1g'))}"
        )
        yield (
            f"the tokens were taken greedily, not sampled ({how}): no number here is a KL, of tokens or of sequences. "
            "Each is a mean along the likeliest path, and says how far the two laws differ on it"
        )
        return
    drawers = {side for one in answers if one.drawn for side in (one.question.first,)}
    for source in sources:
        warm = source.temperature is not None and source.temperature != 1
        if warm and any(source.law.get(COLUMN[side]) == "raw" for side in drawers):
            yield (
                f"the tokens were drawn at temperature {source.temperature:g}, and the log-probs are raw, those of "
                "temperature 1: the rows are no draws of that law, and every KL here is off by it"
            )
            return


def echo_notes(sources: Sequence[Source]) -> Iterator[str]:
    """A sentence where a prompt counts as if it had been drawn."""
    for source in sources:
        if source.echoed:
            yield (
                f"{source.path} echoes prompts and does not say where they end (it has no usage): prompt and "
                "completion are one text here, and all of it counts"
            )


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


def floor_notes(sources: Sequence[Source], answers: Sequence[Answer]) -> Iterator[str]:
    """A sentence where KLs are no more than twice what rounding alone makes of 0, or are nothing but rounding."""
    copy = next((source.copy for source in sources if source.copy is not None), None)
    of: dict[str, list[str]] = {}
    for answer in answers:
        copied = copy is not None and answer.question.needs == {"policy", "reference"}
        said = _copied(copy) if copied and copy is not None else _floor(sources, answer)
        if said:
            of.setdefault(said, []).append(answer.question.title)
    for said, titles in of.items():
        verb = "" if said.startswith("may") else "is " if len(titles) == 1 else "are "
        yield f"{' and '.join(titles)} {verb}{said}"


def _copied(copy: Copy) -> str:
    return (
        f"rounding: at {copy.count:,} of {copy.of:,} tokens the reference's log-prob is the policy's, rounded "
        f"to {copy.kind}"
    )


def _floor(sources: Sequence[Source], answer: Answer) -> str:
    found, sides = answer.estimates.get("token"), sorted(answer.question.needs)
    steps = {side: step for side in sides if (step := step_of(sources, side))}
    least = floor(*steps.values()) if steps else 0.0
    if found is None or least <= 0 or found.value > 2.0 * least:
        return ""
    rounded = " and ".join(f"the {side}'s to {rounded_as(sources, side)}" for side in steps)
    return (
        f"may be rounding: log-probs are rounded, {rounded}, which alone gives about {text_of(Number(least, '.2g'))} "
        "nats a token where there is no KL"
    )
