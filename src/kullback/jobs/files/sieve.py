"""Which rows of a dump count; what does not is counted, and named where it cannot be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.errors import FileError, InputError
from kullback.jobs.files.columns import check_names, value_of
from kullback.jobs.files.conditions import Condition
from kullback.jobs.files.questions import Side, askable, sides_of
from kullback.jobs.files.tally import parts_of, prompt_keys
from kullback.rollouts import Rollout

NAMED = 3
"""Rows that cannot be right of which the place is kept."""


@dataclass(frozen=True)
class Block:
    """Rows of a file, a few at a time.

    Attributes:
        file: its name.
        places: of each row, for people, such as "row 7" or "line 8".
        rows: of the file.
    """

    file: str
    places: Sequence[str]
    rows: Sequence[Rollout]


@dataclass(frozen=True)
class Sifted:
    """The rows of a block that count.

    Attributes:
        block: those rows alone.
        first: the number of the first of them among all that count.
        prompts: the prompt of each, None where prompts are not known.
    """

    block: Block
    first: int
    prompts: np.ndarray | None


@dataclass
class Counts:
    """How many rows came, and what became of them.

    Attributes:
        rows, tokens: that count.
        elsewhere: left out by a condition.
        empty: without a counted token.
        alone: with the log-probs of one law, which no question can be asked of.
        bad, bad_named: that cannot be right, and what is wrong with the first of them.
        missing_end: that count, and lack the log-prob of the token that ended them.
        sides: by the laws that they have.
        columns: what the rows that count have, beside log-probs.
    """

    rows: int = 0
    tokens: int = 0
    elsewhere: int = 0
    empty: int = 0
    bad: int = 0
    missing_end: int = 0
    bad_named: list[str] = field(default_factory=list)
    sides: Counter[frozenset[Side]] = field(default_factory=Counter)

    @property
    def alone(self) -> int:
        """Rows with one law."""
        return sum(number for sides, number in self.sides.items() if len(sides) < 2)


@dataclass
class Sieve:
    """Lets through the rows that count.

    Attributes:
        where: a condition on their columns; None for all.
        by: columns that they have to have.
        skip_bad: whether rows that cannot be right are left out; else they are refused.
    """

    where: Condition | None = None
    by: Sequence[str] = ()
    skip_bad: bool = False
    counts: Counts = field(default_factory=Counts)
    grouped: bool | None = None
    """Whether prompts are known, by the first rows."""

    def sift(self, block: Block) -> Sifted:
        """The rows of a block that count.

        Raises:
            FileError: a row that cannot be right, with its file and place, unless such rows are left out.
            InputError: a column that the rows have not, or values that cannot be compared.
        """
        if self.grouped is None:
            check_names(() if self.where is None else [*self.where.columns()], block.rows, "--where")
            check_names(self.by, block.rows, "--by")
            self.grouped = any(row.prompt_id is not None for row in block.rows)
        chosen = [place for place, row in enumerate(block.rows) if self._counts(row, block.file)]
        if not _right([block.rows[place] for place in chosen]):
            chosen = [place for place in chosen if self._sound(block, place)]
        rows = [block.rows[place] for place in chosen]
        first = self.counts.rows
        self._count(rows)
        found = Block(block.file, [block.places[place] for place in chosen], rows)
        return Sifted(found, first, self._prompts(rows, first))

    def _counts(self, row: Rollout, file: str) -> bool:
        if self.where is not None and not self.where.holds(lambda name: value_of(row, name, file)):
            self.counts.elsewhere += 1
            return False
        if not row.counted.any():
            self.counts.empty += 1
            return False
        return True

    def _sound(self, block: Block, place: int) -> bool:
        """Whether a row can be right; else it is named, or refused."""
        try:
            _check([block.rows[place]])
        except InputError as error:
            said = f"{block.file}, {block.places[place]}: {str(error).replace('[0, ', '[')}"
            if not self.skip_bad:
                raise FileError(f"{said}; --skip-bad leaves such rows out") from error
            self.counts.bad += 1
            self.counts.bad_named += [said][: NAMED - len(self.counts.bad_named)]
            return False
        return True

    def _count(self, rows: Sequence[Rollout]) -> None:
        self.counts.rows += len(rows)
        for row in rows:
            self.counts.tokens += int(row.counted.sum())
            self.counts.missing_end += row.missing_end
            self.counts.sides[sides_of(row)] += 1

    def _prompts(self, rows: Sequence[Rollout], first: int) -> np.ndarray | None:
        """The prompt of each row; a row that has none is a prompt of its own."""
        if not self.grouped:
            return None
        return prompt_keys([f"row {first + n}" if (key := row.prompt_id) is None else key for n, row in enumerate(rows)])


def _right(rows: Sequence[Rollout]) -> bool:
    try:
        _check(rows)
    except InputError:
        return False
    return True


def _check(rows: Sequence[Rollout]) -> None:
    """Hold all numbers against what they can be, before any of them is summed."""
    for part in parts_of(rows, None):
        for question in askable(part.sides):
            part.sequences(question)


def blocks_of(file: str, rows: Iterator[Sequence[Rollout]]) -> Iterator[Block]:
    """Rows of a file, numbered from 0 on."""
    first = 0
    for block in rows:
        yield Block(file, [f"row {first + number}" for number in range(len(block))], block)
        first += len(block)
