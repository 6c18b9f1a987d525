"""What files of rollouts say: the answers, the groups, the rows behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kullback.displays import Displayed
from kullback.documents import Document, Record, json_of, plain
from kullback.estimation import Estimate
from kullback.estimation.recipe import Unit
from kullback.jobs.files.joined import Bracketed
from kullback.jobs.files.ledger import Group
from kullback.jobs.files.multiplicity import Standing
from kullback.jobs.files.places import Found
from kullback.jobs.files.sampled import Kept
from kullback.jobs.files.sources import Source
from kullback.jobs.files.tally import Answer

SCHEMA = 1
"""The version of what `FilesEstimate.to_dict` returns."""


@dataclass(frozen=True)
class Grouping:
    """A question by what tells its rows apart.

    Attributes:
        name: the column, or "position".
        title: of the question.
        question: its name.
        unit: of the estimates.
        groups: each with its estimate.
        standing: which of them differ from the rest by more than their number explains.
    """

    name: str
    title: str
    question: str
    unit: Unit
    groups: tuple[Group, ...]
    standing: Standing

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        return {
            "by": self.name,
            "kl": self.title,
            "question": self.question,
            "groups": [{"group": group.value, **_brief(group.found)} for group in self.groups],
            "judged": self.standing.judged,
            "apart": [self.groups[place].value for place in self.standing.apart],
        }


@dataclass(frozen=True)
class Moved:
    """A row that moves an answer.

    Attributes:
        title: of the question.
        row: its number among those that count.
        token: the position in it that has the largest part.
        change: the estimate minus what it would be without the row.
        found: where it is and what it says; None where that was not kept.
    """

    title: str
    row: int
    token: int
    change: float
    found: Found | None

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        found = {} if self.found is None else self.found.to_dict()
        return {"kl": self.title, "row": self.row, "token": self.token, "change": self.change, **found}


@dataclass(frozen=True)
class FilesEstimate(Displayed):
    """What `estimate_files` found in one dump.

    Attributes:
        sources: the files, with what they say about themselves.
        answers: to the questions that the rows can answer, KL(policy‖reference) first where it is one of them.
        groupings: the same by step, by environment, and by what was asked for.
        influential: the rows that move the first answer most.
        sequences, tokens, prompts: that count; prompts is None where they are not known.
        notes: sentences on what was left out, what is missing, and what the numbers cannot show.
        seconds: wall time.
        where: the condition by which rows were chosen, "" where all count.
        joined: how two files were joined into one, in words, "" where they were not.
        bracket: what the lists of likely words of two joined files say; None where there are none.
        sampled: some rows, evenly spread, for a page that shows them token by token; none unless they were asked for.

    Example:
        >>> import tempfile, kullback as kb
        >>> path = tempfile.mkdtemp() + "/rollouts.parquet"
        >>> rows = [kb.Rollout(logprobs=[-0.5, -1.0], ref_logprobs=[-0.7, -1.5]) for _ in range(3)]
        >>> kb.write_rollouts(path, rows)
        >>> found = kb.estimate_files(path)
        >>> found.sequences, found.answers[0].question.title
        (3, 'KL(policy‖reference)')
    """

    sources: tuple[Source, ...]
    answers: tuple[Answer, ...]
    groupings: tuple[Grouping, ...]
    influential: tuple[Moved, ...]
    sequences: int
    tokens: int
    prompts: int | None
    notes: tuple[str, ...]
    seconds: float
    where: str = ""
    joined: str = ""
    bracket: Bracketed | None = None
    sampled: tuple[Kept, ...] = field(default=(), repr=False)

    @property
    def main(self) -> Answer | None:
        """The answer that one asks for first: of those that can be given, the first."""
        return next((answer for answer in self.answers if answer.main is not None), None)

    @property
    def greedy(self) -> bool:
        """Whether tokens were taken as the likeliest and not sampled, so that no number is a KL."""
        return any(source.greedy for source in self.sources)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Every estimate, in the order of the answers."""
        return tuple(estimate for answer in self.answers for estimate in answer.estimates.values())

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        record = {
            "schema": SCHEMA,
            "files": [source.to_dict() for source in self.sources],
            "sequences": self.sequences,
            "tokens": self.tokens,
            "prompts": self.prompts,
            "where": self.where or None,
            "joined": self.joined or None,
            "bracket": None if self.bracket is None else self.bracket.to_dict(),
            "seconds": round(self.seconds, 3),
            "estimates": [record for answer in self.answers for record in records_of(answer)],
            "refused": [{"kl": one.question.title, "why": one.refused} for one in self.answers if one.refused],
            "groups": [grouping.to_dict() for grouping in self.groupings],
            "influential": [moved.to_dict() for moved in self.influential],
            "notes": list(self.notes),
        }
        return dict(plain(record))

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON."""
        return json_of(self.to_dict(), indent=indent)

    def records(self) -> list[Record]:
        """A record for each estimate."""
        return list(self.to_dict()["estimates"])

    def document(self) -> Document:
        """What it has to say to people."""
        from kullback.jobs.files.pages import document_of

        return document_of(self)

    def page(self) -> Document:
        """The same with what to do next, how log-ratios lie, and the sampled rows token by token."""
        from kullback.jobs.files.page import page_of

        return page_of(self)

    def __str__(self) -> str:
        lines = [f"{names_of(self.sources)}: {self.sequences:,} sequences"]
        lines += [f"  {one.question.title} {found}" for one in self.answers for found in one.estimates.values()]
        return "\n".join(lines)


def records_of(answer: Answer) -> Iterator[Record]:
    """An answer's estimates and its χ² as ``--json`` prints them."""
    about = {"kl": answer.question.title, "question": answer.question.name, "reweighted": not answer.drawn}
    for found in (*answer.estimates.values(), *((answer.chi2,) if answer.chi2 is not None else ())):
        yield {**found.to_dict(), **about}


def _brief(found: Estimate) -> Record:
    names = ("unit", "value", "stderr", "low", "high", "stderr_given_prompts", "n", "clusters", "ess", "khat")
    record = found.to_dict()
    return {name: record[name] for name in names}


def names_of(sources: tuple[Source, ...]) -> str:
    """The files in a few words."""
    first = sources[0].path
    return first if len(sources) == 1 else f"{first} and {len(sources) - 1} more"
