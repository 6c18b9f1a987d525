"""Which rows of a dump count; what does not is counted, and named where it cannot be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.errors import FileError, InputError
from kullback.jobs.files.columns import Block, Value, check_names
from kullback.jobs.files.conditions import Condition
from kullback.jobs.files.parts import Part
from kullback.jobs.files.questions import Side
from kullback.rollouts import LOGPROB_COLUMNS
from kullback.rollouts.columns import Columns
from kullback.rollouts.endings import Endings

PADDING = 2
"""So many zeros at the end of a row look like padding."""

NAMED = 3
"""Rows that cannot be right of which the place is kept."""


@dataclass
class Counts:
    """How many rows came, and what became of them.

    Attributes:
        rows, tokens: that count.
        elsewhere: left out by a condition.
        empty: without a counted token.
        bad, bad_named: that cannot be right, and what is wrong with the first of them.
        endings: how those that count ended.
        sides: by the laws that they have.
        padded: that end in two log-probs or more of exactly 0 by every law, with no mask to say what counts.
        longest, shortest: tokens of a row, counted or not.
    """

    rows: int = 0
    tokens: int = 0
    elsewhere: int = 0
    empty: int = 0
    bad: int = 0
    endings: Endings = field(default_factory=Endings)
    bad_named: list[str] = field(default_factory=list)
    sides: Counter[frozenset[Side]] = field(default_factory=Counter)

    padded: int = 0
    longest: int = 0
    shortest: int | None = None

    @property
    def unmasked(self) -> int:
        """Rows that look padded, where all rows are of one length, as padded ones are; else 0."""
        return self.padded if self.longest == self.shortest else 0

    @property
    def left_out(self) -> int:
        """Rows that came and do not count."""
        return self.elsewhere + self.empty + self.bad

    @property
    def alone(self) -> int:
        """Rows with the log-probs of one law, which no question can be asked of."""
        return sum(number for sides, number in self.sides.items() if len(sides) < 2)

    def add(self, part: Part) -> None:
        """Rows that count."""
        self.rows += len(part)
        self.tokens += int(part.block.counted.sum())
        self.endings += Endings.of_columns(part.block.columns)
        self.sides[part.sides] += len(part)
        columns = part.block.columns
        self.longest = max(self.longest, int(columns.lengths.max()))
        shortest = int(columns.lengths.min())
        self.shortest = shortest if self.shortest is None else min(self.shortest, shortest)
        if "mask" not in columns.tokens:
            self.padded += int(_ends_in_zeros(columns).sum())


def _ends_in_zeros(columns: Columns) -> np.ndarray:
    """Rows whose last two log-probs are 0 by every law: no two models are sure of the same tokens to the last digit."""
    laws = [columns.tokens[name] for name in LOGPROB_COLUMNS if name in columns.tokens]
    found = (columns.lengths > PADDING) & (len(laws) > 1)
    for values in laws:
        for back in range(1, PADDING + 1):
            found[found] = values[columns.offsets[1:][found] - back] == 0
    return np.asarray(found)


@dataclass
class Sieve:
    """Lets through the rows that count.

    Attributes:
        where: a condition on their columns; None for all.
        by: columns that they have to have.
        skip_bad: whether rows that cannot be right are left out; else they are refused.
        grouped: whether prompts are known, by the first rows; None before.
    """

    where: Condition | None = None
    by: Sequence[str] = ()
    skip_bad: bool = False
    counts: Counts = field(default_factory=Counts)
    grouped: bool | None = None

    def sift(self, block: Block) -> Part:
        """The rows of a block that count.

        Raises:
            FileError: a row that cannot be right, with its file and number, unless such rows are left out.
            InputError: a column that the rows have not, or values that cannot be compared.
        """
        if self.grouped is None:
            check_names(() if self.where is None else [*self.where.columns()], block, "--where")
            check_names(self.by, block, "--by")
            self.grouped = "prompt_id" in block.columns.rows
        kept = self._wanted(block) & self._filled(block)
        part = Part.of(block, kept, self.counts.rows, grouped=self.grouped)
        if len(part) and not _right(part):
            kept &= np.array([bool(kept[row]) and self._sound(block, row) for row in range(len(block))])
            part = Part.of(block, kept, self.counts.rows, grouped=self.grouped)
        if len(part):
            self.counts.add(part)
        return part

    def _wanted(self, block: Block) -> np.ndarray:
        if self.where is None:
            return np.ones(len(block), dtype=bool)
        columns = {name: block.values(name) for name in self.where.columns()}
        kept = np.array([self.where.holds(_Row(columns, row)) for row in range(len(block))], dtype=bool)
        self.counts.elsewhere += int((~kept).sum())
        return kept

    def _filled(self, block: Block) -> np.ndarray:
        filled = block.counted > 0
        self.counts.empty += int((~filled).sum())
        return filled

    def _sound(self, block: Block, row: int) -> bool:
        """Whether a row can be right; else it is named, or refused."""
        one = np.arange(len(block)) == row
        try:
            Part.of(block, one, 0, grouped=False).check()
        except InputError as error:
            number = block.columns.first + row
            said = f"{block.file}, row {number}: {str(error).replace('[0, ', '[')}"
            if not self.skip_bad:
                raise FileError(f"{said}; --skip-bad leaves such rows out") from error
            self.counts.bad += 1
            self.counts.bad_named += [said][: NAMED - len(self.counts.bad_named)]
            return False
        return True


@dataclass(frozen=True)
class _Row:
    """What a row holds, by the name of the column."""

    columns: dict[str, Sequence[Value | None]]
    number: int

    def __call__(self, name: str) -> Value | None:
        return self.columns[name][self.number]


def _right(part: Part) -> bool:
    try:
        part.check()
    except InputError:
        return False
    return True
