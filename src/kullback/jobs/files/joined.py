"""Two dumps of the same tokens, of which neither can answer a question alone: joined into one that can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from kullback.errors import InputError
from kullback.jobs.files.columns import LISTS, READ, SHOWN, Block
from kullback.jobs.files.dumps import Dump
from kullback.jobs.files.parts import by_sampler
from kullback.jobs.files.places import Found, Place
from kullback.jobs.files.questions import COLUMN, Side
from kullback.jobs.files.samples import Samples
from kullback.jobs.files.sources import Source
from kullback.rollouts import Rollout
from kullback.rollouts.columns import split
from kullback.rollouts.joining import By, Role, join, joined_metadata

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
    """

    drew: Dump
    scored: Dump
    roles: tuple[Role, ...] = ("logprobs",)
    by: By = "order"
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
        return (Source.of(name, " and ".join(formats), said, samples.get(self.drew.name, Samples())),)

    def share(self, block: Block) -> float | None:
        """Not known: both are read side by side."""
        return None

    def found(self, place: Place) -> Found | None:
        """What a row says."""
        return place.said


def joinable(first: Dump, second: Dump) -> Joined | None:
    """The two as one, where one of them has a single law; None where each can answer a question of its own.

    Raises:
        InputError: they do not hold the same tokens.
    """
    sides = [dump.sides() for dump in (first, second)]
    if all(len(each) > 1 for each in sides):
        return None
    # What has the sampler alone drew the tokens; where both have, the first is it.
    drew, scored, has = (first, second, sides[1]) if len(sides[0]) == 1 else (second, first, sides[0])
    others: tuple[Side, ...] = ("policy", "reference")
    roles = tuple(role for role in map(_role, others) if role is not None and _side(role) in has) or ("logprobs",)
    refused = []
    for by in WAYS:
        joined = Joined(drew, scored, roles, by)
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
