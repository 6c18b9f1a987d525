"""Two dumps of the same tokens, of which neither can answer a question alone: joined into one that can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from kullback.documents import Number, Record, text_of
from kullback.errors import InputError
from kullback.jobs.brackets import Bracket, topk_brackets
from kullback.jobs.files.columns import LISTS, READ, SHOWN, Block
from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.parts import by_sampler
from kullback.jobs.files.places import Found, Place
from kullback.jobs.files.questions import COLUMN, QUESTIONS, Question, Side
from kullback.jobs.files.sampled import Kept
from kullback.jobs.files.samples import Samples
from kullback.jobs.files.sources import Source
from kullback.rollouts import Rollout
from kullback.rollouts.columns import split
from kullback.rollouts.joining import By, Role, join, joined_metadata, pairs


@dataclass(frozen=True)
class Bracketed:
    """Bounds on a KL of the next token, which two files' lists of likely words give.

    Attributes:
        question: which KL.
        bracket: its bounds, summed over places.
    """

    question: Question
    bracket: Bracket

    @property
    def lower(self) -> float:
        """Nats a token."""
        return self.bracket.lower / max(1, self.bracket.positions)

    @property
    def upper(self) -> float:
        """Nats a token; inf where nothing bounds what lies outside the lists."""
        return self.bracket.upper / max(1, self.bracket.positions)

    @property
    def sentence(self) -> str:
        """For people."""
        one = self.bracket
        without = f" ({one.without:,} more have no list)" if one.without else ""
        outside, ref_outside, most = (f"{100 * mass:.2g}%" for mass in (one.missing, one.ref_missing, one.most_missing))
        nats = text_of(Number(self.lower, ".3g"))
        if np.isfinite(self.upper):
            upper = text_of(Number(self.upper, ".3g"))
            return (
                f"Both files list likely words at {one.positions:,} places{without}. There the exact "
                f"{self.question.title} of the next token, whatever was drawn, lies between {nats} and {upper} nats on "
                f"average, if the log-ratio is within --max-log-ratio outside the words that both list, where "
                f"{outside} of the {self.question.first}'s probability ({most} at most) and {ref_outside} of the "
                f"{self.question.second}'s lie."
            )
        return (
            f"Both files list likely words at {one.positions:,} places{without}. There the exact "
            f"{self.question.title} of the next token, whatever was drawn, is at least "
            f"{nats} nats on average. Outside the words that both list lie {outside} of "
            f"the {self.question.first}'s probability ({most} at most) and {ref_outside} of the "
            f"{self.question.second}'s, on which they set no upper bound: longer lists narrow it, and "
            "--max-log-ratio sets one."
        )

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        per_token = {"lower": self.lower, "upper": self.upper}
        return {"kl": self.question.title, "unit": "token", **vars(self.bracket), **per_token}


WAYS: tuple[By, ...] = ("order", "id", "tokens")
"""How rows are brought together, in the order in which it is tried."""

ROWS = 1024


@dataclass
class Joined:
    """Rows of a dump that drew tokens, with the log-probs that another one gives to the same tokens.

    Attributes:
        drew, scored: the dumps.
        roles: what is taken of the second.
        by: how rows are brought together.
        max_log_ratio: a bound on log(first/second) outside the lists of likely words, known from elsewhere.
    """

    drew: Dump
    scored: Dump
    roles: tuple[Role, ...] = ("logprobs",)
    by: By = "order"
    max_log_ratio: float | None = None
    rows: int = 0
    left_out: tuple[str, ...] = field(default=())

    @property
    def bad(self) -> tuple[str, ...]:
        """Records that could not be read in the last pass, with file and line."""
        return (*self.drew.bad, *self.scored.bad)

    @property
    def sentence(self) -> str:
        """What was done, in words."""
        names = {"logprobs": "policy", "ref_logprobs": "reference"}
        roles = " and ".join(names[role] for role in self.roles)
        how = {"order": "row by row", "id": "by prompt and sample", "tokens": "by their tokens"}[self.by]
        return (
            f"Joined {how}, for both hold the same tokens: what drew them (sampler) is {self.drew.name}, "
            f"what else scored them ({roles}) is {self.scored.name}."
        )

    def blocks(self) -> Iterator[Block]:
        """The rows, a few at a time.

        Raises:
            InputError: the two do not hold the same tokens.
        """
        rows: Iterator[Rollout] = self.drew.rollouts()
        for role in self.roles:
            rows = join(rows, self.scored.rollouts(), role=role, by=self.by)
        first = 0
        while block := list(islice(rows, ROWS)):
            for columns in split(block, first, (*READ, *SHOWN, *LISTS)):
                yield from by_sampler(Block(self.drew.name, columns))
            first += len(block)

    def sources(self, samples: Mapping[str, Samples]) -> tuple[Source, ...]:
        """What both say about themselves, as one source."""
        said = self.drew.files[0].metadata
        for role in self.roles:
            said = joined_metadata(said, self.scored.files[0].metadata, role)
        formats = dict.fromkeys([self.drew.files[0].format, self.scored.files[0].format])
        name = f"{self.drew.name} and {self.scored.name}"
        found = samples.get(self.drew.name, Samples())
        for role in self.roles:
            found.lists[role] = [words for row in islice(self.scored.rollouts(), ROWS) for words in row.top or ()]
        return (Source.of(name, " and ".join(formats), said, found),)

    @property
    def listed(self) -> bool:
        """Whether both have lists of likely words, and are of two laws."""
        heads = [next(dump.rollouts()) for dump in (self.drew, self.scored)]
        return len(self.roles) == 1 and all(head.top is not None for head in heads)

    def bracket(self) -> Bracketed | None:
        """What the lists of likely words of both say of the KL between them; None where one of them has none.

        Raises:
            InputError: lists that cannot be set side by side.
            MissingPackageError: torch is not installed.
        """
        if not self.listed:
            return None
        found = topk_brackets(
            pairs(self.drew.rollouts(), self.scored.rollouts(), by=self.by), max_log_ratio=self.max_log_ratio
        )
        second: Side = "policy" if self.roles == ("logprobs",) else "reference"
        return Bracketed(next(one for one in QUESTIONS if (one.first, one.second) == ("sampler", second)), found)

    def share(self, block: Block) -> float | None:
        """Not known: both are read side by side."""
        return None

    def named(self, rows: Sequence[Kept]) -> tuple[Kept, ...]:
        """The rows as they are: their numbers are those of the pairs, and not of a file."""
        return tuple(rows)

    def found(self, place: Place) -> Found | None:
        """What a row says."""
        return place.said


def joinable(first: Dump, second: Dump, max_log_ratio: float | None = None) -> Joined | None:
    """The two as one, where one of them has a single law; None where each can answer a question of its own.

    Raises:
        InputError: they do not hold the same tokens.
    """
    sides = [dump.sides() for dump in (first, second)]
    if all(len(each) > 1 for each in sides):
        return None
    if first.name == second.name:
        raise InputError(
            f"{first.name} came twice, and has one law: its KL from itself says nothing; name another file"
        )
    # What has the sampler alone drew the tokens; where both have, the first is it.
    drew, scored, has = (first, second, sides[1]) if len(sides[0]) == 1 else (second, first, sides[0])
    others: tuple[Side, ...] = ("policy", "reference")
    roles = tuple(role for role in map(_role, others) if role is not None and _side(role) in has) or ("logprobs",)
    refused = []
    for by in WAYS:
        joined = Joined(drew, scored, roles, by, max_log_ratio)
        try:
            for _ in joined.blocks():
                pass
        except InputError as error:
            refused.append(str(error))
        else:
            return joined
    raise InputError(
        f"{first.name} and {second.name} have one law each or too few in common, and cannot be joined: {refused[0]}"
    )


def _role(side: Side) -> Role | None:
    return "logprobs" if side == "policy" else "ref_logprobs" if side == "reference" else None


def _side(role: Role) -> Side:
    return next(side for side, column in COLUMN.items() if column == role)
