"""One pass over the rows of a dump, and what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kullback.errors import InputError, MissingPackageError, StoppedError, shown
from kullback.estimation.recipe import Unit
from kullback.jobs.files.asked import Asked
from kullback.jobs.files.columns import POSITION, Block
from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.joined import Bracketed, Joined
from kullback.jobs.files.ledger import Group, Ledger, Singles
from kullback.jobs.files.multiplicity import standing
from kullback.jobs.files.notes import dump_notes, notes_of
from kullback.jobs.files.outcome import FilesEstimate, Grouping, Moved
from kullback.jobs.files.questions import missing_sentence
from kullback.jobs.files.sampled import Sampled
from kullback.jobs.files.samples import Samples
from kullback.jobs.files.sieve import Counts, Sieve
from kullback.jobs.files.sources import Source, echo_notes
from kullback.jobs.files.tally import Answer, Tallies
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.progress import OnProgress, Progress, unheard


@dataclass
class Survey:
    """What is remembered of the rows of a dump, block after block.

    Attributes:
        asked: what is wanted.
    """

    asked: Asked
    samples: dict[str, Samples] = field(default_factory=dict)
    sampled: Sampled = field(default_factory=Sampled)
    sieve: Sieve = field(init=False)
    tallies: Tallies = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.sieve = Sieve(self.asked.where, self.asked.by, self.asked.skip_bad)
        self.tallies = Tallies(self.asked.estimators, self.asked.units)
        self.ledger = Ledger(self.asked.columns, positions=POSITION in self.asked.by)

    @property
    def counts(self) -> Counts:
        """How many rows came, and what became of them."""
        return self.sieve.counts

    def add(self, block: Block) -> None:
        """Add rows of a file; raises as `Sieve.sift`."""
        part = self.sieve.sift(block)
        if len(part):
            for read in self.tallies.add(part):
                self.ledger.keep(read, part)
            self.ledger.add(part)
            self.samples.setdefault(block.file, Samples()).add(part)
            if self.asked.sample:
                self.sampled.add(part)

    def found(self, dump: Dump | Joined, *, where: str, seconds: float) -> FilesEstimate:
        """What the rows said.

        Raises:
            InputError: no row counts, or no question can be asked of those that do.
        """
        answers, sources = self.tallies.answers(), dump.sources(self.samples)
        if not any(answer.main for answer in answers):
            raise InputError(self._nothing(sources, where, answers))
        groupings = tuple(self._groupings())
        bracket, unbound = _bracket(dump)
        return FilesEstimate(
            sources=sources,
            answers=answers,
            groupings=groupings,
            influential=tuple(self._influential(answers, dump)),
            sequences=self.counts.rows,
            tokens=self.counts.tokens,
            prompts=len(self.ledger.prompts.values) if self.sieve.grouped else None,
            bracket=bracket,
            notes=(*dump_notes(dump), *unbound, *self._notes(sources, answers, groupings)),
            seconds=seconds,
            where=where,
            joined=dump.sentence if isinstance(dump, Joined) else "",
            sampled=dump.named(self.sampled.shown),
        )

    def _notes(
        self, sources: Sequence[Source], answers: Sequence[Answer], groupings: Sequence[Grouping]
    ) -> tuple[str, ...]:
        return notes_of(self.counts, sources, answers, groupings, prompts_known=bool(self.sieve.grouped))

    def _nothing(self, sources: Sequence[Source], where: str, answers: Sequence[Answer]) -> str:
        path = sources[0].path
        if answers:
            return next(answer.refused for answer in answers)
        if self.counts.elsewhere and not self.counts.rows:
            return f"--where {shown(where)} leaves none of the {self.counts.elsewhere:,} rows of {path}: loosen it"
        if self.counts.bad and not self.counts.rows:
            return f"no row of {path} can be read right, and {self.counts.bad:,} cannot: {self.counts.bad_named[0]}"
        sides = next((sides for sides in self.counts.sides if sides), None)
        if sides is None:
            return f"{path} has no row with a counted token"
        if len(sides) > 1:
            return f"the rows of {path} have no exact token KLs, which this estimator reads: ask for k3"
        return "; ".join([missing_sentence([*sides], path), *echo_notes(sources)])

    def _groupings(self) -> Iterator[Grouping]:
        unit: Unit = "token" if "token" in self.asked.units else "sequence"
        for name in self.asked.dimensions:
            for singles in self.ledger.singles.values():
                groups = tuple(self._groups(name, singles, unit))
                if len(groups) > 1 or name in self.asked.by:
                    yield Grouping(
                        name=name,
                        title=singles.question.title,
                        question=singles.question.name,
                        unit=unit,
                        groups=groups,
                        standing=standing(groups, self.ledger.whole(singles, unit)),
                    )

    def _groups(self, name: str, singles: Singles, unit: Unit) -> Iterable[Group]:
        if name == POSITION:
            return self.ledger.ranges(singles, unit)
        return sorted(self.ledger.groups(name, singles, unit), key=_in_order)

    def _influential(self, answers: Sequence[Answer], dump: Dump | Joined) -> Iterator[Moved]:
        """The rows that move the first answer, read again for what they say."""
        for answer in answers:
            found, singles = answer.main, self.ledger.singles.get(answer.question.name)
            if found is None or singles is None or singles.estimator.name != found.estimator:
                continue
            for one in found.influential:
                place = singles.places.of(one.row)
                row = None if place is None else dump.found(place)
                yield Moved(answer.question.title, one.row, one.token, one.change, row)
            return


def _bracket(dump: Dump | Joined) -> tuple[Bracketed | None, list[str]]:
    """What lists of likely words bound, or why they bound nothing."""
    try:
        return (dump.bracket() if isinstance(dump, Joined) else None), []
    except (InputError, MissingPackageError) as error:
        return None, [f"the lists of likely words bound nothing: {error}"]


def _in_order(group: Group) -> tuple[int, float, str]:
    """Nothing first, then numbers, then texts."""
    value = group.value
    if value is None or isinstance(value, str):
        return (0 if value is None else 2, 0.0, value or "")
    return 1, float(value), ""


def surveyed(
    dump: Dump | Joined, asked: Asked, on_progress: OnProgress = unheard
) -> tuple[Survey, BaseException | None]:
    """A pass over the rows of a dump, and what ended it early, if anything did.

    Args:
        dump: whose rows.
        asked: what is wanted.
        on_progress: called after every block.
    """
    survey, seen = Survey(asked), 0
    try:
        with safe_interrupts() as check:
            for block in dump.blocks():
                survey.add(block)
                seen += len(block)
                on_progress(Progress(seen, dump.rows, survey.counts.tokens, dump.share(block)))
                check()
    except KeyboardInterrupt:
        return survey, StoppedError(f"stopped after {seen:,} rows: the numbers are of those")
    return survey, None
