"""What is summed up of the questions, a block of rows after another, and the answers in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kullback.errors import InputError
from kullback.estimation import Accumulator, Estimate
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import UNITS, Unit
from kullback.estimation.rows import Rows
from kullback.estimators import ESTIMATORS, K3, RAO_BLACKWELL, Estimator, Level
from kullback.jobs.files.parts import Part, parts_of
from kullback.jobs.files.questions import QUESTIONS, Question, askable
from kullback.rollouts import Rollout

FEWEST_EFFECTIVE, LEAST_SHARE = 10.0, 0.1
"""Effective sequences below which a reweighted number does not hold (half of all where there are few), and their
share of all."""

CHI2 = ESTIMATORS["pearson_chi2"]


@dataclass(frozen=True)
class Answer:
    """What rows say to a question, by one estimator.

    Attributes:
        question: which.
        estimates: by unit; empty where none can be given.
        chi2: χ² of the second law from the first, a token; None where it was not asked for.
        drawn: whether the first law is what drew the tokens; else the rows were reweighted.
        refused: why no estimate can be given, "" where it can.
    """

    question: Question
    estimates: Mapping[Unit, Estimate]
    chi2: Estimate | None
    drawn: bool
    refused: str = ""

    @property
    def main(self) -> Estimate | None:
        """The estimate a token where it was asked for, else a sequence."""
        return self.estimates.get("token", self.estimates.get("sequence"))

    @property
    def unreliable(self) -> str:
        """Why a reweighted number does not hold, "" where nothing speaks against it."""
        found = self.main
        fewest = 0 if found is None else max(min(FEWEST_EFFECTIVE, found.n / 2), LEAST_SHARE * found.n)
        if found is None or self.drawn or found.ess >= fewest:
            return ""
        return (
            f"{self.question.title} is reweighted, and its weights leave {found.ess:.3g} effective sequences of "
            f"{found.n:,}: it does not hold; read the other direction"
        )


@dataclass(frozen=True)
class Read:
    """Sequences of a question that is told apart by group.

    Attributes:
        question, estimator: what they answer, and by which estimator.
        sequences: as the question reads them.
        rows: one by one, where they were seen in passing.
    """

    question: Question
    estimator: Estimator
    sequences: Ragged
    rows: Rows | None


@dataclass
class Tally:
    """The sums of one question by one estimator, of rows that its first law drew, or of rows that are reweighted.

    Attributes:
        question, estimator: what is estimated.
        drawn: whether the first law drew the tokens.
        units: in which units.
    """

    question: Question
    estimator: Estimator
    drawn: bool
    units: Sequence[Unit] = UNITS
    sums: dict[Unit, Accumulator] = field(default_factory=dict)
    chi2: Accumulator = field(default_factory=lambda: Accumulator(estimator=CHI2, unit="token"))
    rows: int = 0
    refused: str = ""

    def __post_init__(self) -> None:
        function = self.estimator.link is not None
        units = [unit for unit in self.units if not function or unit == "sequence"]
        level: Level = "sequence" if function else "token"
        self.sums = {unit: Accumulator(estimator=self.estimator, level=level, unit=unit) for unit in units}

    def add(self, sequences: Ragged, *, singles: bool) -> Rows | None:
        """Add rows that have the question's laws; weights beyond all bounds end a reweighted question.

        Args:
            sequences: the rows.
            singles: whether they are wanted one by one.

        Returns:
            The rows one by one, where they were seen in passing.
        """
        self.rows += len(sequences)
        if self.refused:
            return None
        sums = [*self.sums.values(), *((self.chi2,) if self.drawn else ())]
        try:
            return Accumulator.update_all(sums, sequences, singles=singles)
        except InputError as error:
            if self.drawn:
                raise
            self.refused = str(error)
            return None

    def answer(self) -> Answer:
        """What the rows said."""
        try:
            found = {} if self.refused else {unit: one.result() for unit, one in self.sums.items()}
        except InputError as error:  # every weight is 0
            return Answer(self.question, {}, None, self.drawn, str(error))
        return Answer(self.question, found, self.chi2.result() if self.drawn else None, self.drawn, self.refused)


@dataclass
class Tallies:
    """All questions that the rows can answer, by all estimators.

    Attributes:
        estimators: by which; None for Rao-Blackwell where exact token KLs are known, else k3.
        units: in which units the answers are.
    """

    estimators: Sequence[Estimator] | None = None
    units: Sequence[Unit] = UNITS
    tallies: dict[tuple[str, str, bool], Tally] = field(default_factory=dict)

    def add(self, part: Part) -> Iterator[Read]:
        """Add rows; what the questions that are told apart by group read of them."""
        asked = askable(part.sides)
        for question in asked:
            sequences, drawn = part.sequences(question), question.first == part.drawer
            chosen = self._estimators(sequences)
            kept = (drawn or question is asked[0]) and not question.beside(part.sides)
            rows: list[Rows | None] = []
            for estimator in chosen:
                key = (question.name, estimator.name, drawn)
                tally = self.tallies.setdefault(key, Tally(question, estimator, drawn, self.units))
                rows.append(tally.add(sequences, singles=kept and not rows))
            if chosen and kept:
                yield Read(question, chosen[0], sequences, rows[0])

    def _estimators(self, sequences: Ragged) -> Sequence[Estimator]:
        exact = sequences.token_kl is not None
        if self.estimators is None:
            return (RAO_BLACKWELL,) if exact else (K3,)
        return [one for one in self.estimators if exact or not _needs_token_kl(one)]

    def answers(self) -> tuple[Answer, ...]:
        """The answers in the order of the questions; of rows that are reweighted only where no other say it."""
        own = {(name, estimator) for name, estimator, drawn in self.tallies if drawn}
        chosen = [tally for key, tally in self.tallies.items() if tally.drawn or key[:2] not in own]
        answered = {tally.question.name for tally in chosen if tally.drawn}
        chosen = [tally for tally in chosen if tally.drawn or tally.question.name not in answered]
        order = [question.name for question in QUESTIONS]
        return tuple(tally.answer() for tally in sorted(chosen, key=lambda tally: order.index(tally.question.name)))


def _needs_token_kl(estimator: Estimator) -> bool:
    return estimator.reads == "token_kl" or any(control.needs_token_kl for control in estimator.controls)


def answers(
    rows: Sequence[Rollout], *, estimators: Sequence[Estimator] | None = None, units: Sequence[Unit] = UNITS
) -> tuple[Answer, ...]:
    """What rows, such as those of a training step, say to every question that they can answer.

    Args:
        rows: at least one.
        estimators: by which; None for Rao-Blackwell where exact token KLs are known, else k3.
        units: nats a sequence, nats a token or both.

    Raises:
        InputError: numbers that cannot be right.

    Example:
        >>> row = Rollout(logprobs=[-0.1, -2.0], ref_logprobs=[-0.3, -1.5], behavior_logprobs=[-0.1, -2.1])
        >>> [answer.question.title for answer in answers([row])][:2]
        ['KL(policy‖reference)', 'KL(sampler‖policy)']
    """
    tallies = Tallies(estimators, units)
    for part in parts_of(rows):
        for _ in tallies.add(part):
            pass
    return tallies.answers()
