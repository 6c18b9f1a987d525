"""What is summed over sequences: an estimator at a level, in a unit, with or without tamed weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError, shown
from kullback.estimation.block import Block
from kullback.estimation.extremes import Extremes
from kullback.estimation.moments import KeyedMoments, Moments
from kullback.estimation.ragged import Ragged
from kullback.estimation.sequences import Sequences
from kullback.estimation.summary import ROW_CELLS, Oddities, Summary
from kullback.estimation.tails import Tail
from kullback.estimation.token_values import Held
from kullback.estimation.workings import Workings
from kullback.estimators import LEVELS, Estimator, Level, member
from kullback.estimators.controls import RATIO, Control
from kullback.weights import Truncation, truncation

Unit = Literal["sequence", "token"]
UNITS: tuple[Unit, ...] = ("sequence", "token")

NUMERATOR, DENOMINATOR, CHECK = 0, 1, 2
"""Columns of the moments: the summand, what it is divided by, and r − 1, whose mean must be 0; then controls."""

CHECK_LIMIT = 1e90
"""Where r − 1 only serves as a check it is cut off here: its cubes, 1e270, can then be added 1e38 times in float64."""


@dataclass(frozen=True)
class Recipe:
    """An estimator at a level, in a unit: how a block of sequences becomes rows of numbers to be summed.

    Attributes:
        estimator: what is applied to log-ratios or token KLs.
        level: whether to every token, or to a whole sequence.
        unit: what the sum is divided by.
        truncation: how importance weights are tamed.
    """

    estimator: Estimator
    level: Level
    unit: Unit
    truncation: Truncation | None

    @classmethod
    def of(
        cls, estimator: Estimator | str, level: Level, unit: Unit, truncate: Truncation | float | str | None
    ) -> Recipe:
        """The recipe of the options that `kullback.estimate` takes.

        Raises:
            InputError: options that do not exist or do not go together.
            NameUnknownError: no estimator has the name.
        """
        chosen = member(estimator)
        if level not in LEVELS:
            raise InputError(f"level={shown(level)} came, but a level is 'token' or 'sequence'")
        if unit not in UNITS:
            raise InputError(f"unit={shown(unit)} came, but a unit is 'sequence' or 'token'")
        if chosen.link is not None and (level, unit) != ("sequence", "sequence"):
            raise InputError(f"{chosen.name} is a function of a mean over sequences: use level='sequence'")
        return cls(estimator=chosen, level=level, unit=unit, truncation=truncation(truncate))

    @property
    def name(self) -> str:
        """What is summed, in words; recipes with one name merge."""
        tamed = f", {self.truncation.name}" if self.truncation else ""
        return f"{self.estimator.name} ({self.level}) a {self.unit}{tamed}"

    @property
    def columns(self) -> tuple[Control, ...]:
        """The controls among the columns of the moments: the check first."""
        return (RATIO, *(control for control in self.estimator.controls if control != RATIO))

    @property
    def fitted(self) -> list[int]:
        """The columns whose coefficients are fitted, in the estimator's order."""
        return [CHECK + self.columns.index(control) for control in self.estimator.controls]

    @property
    def needs_token_kl(self) -> bool:
        """Whether it reads the exact token KLs."""
        return self.estimator.reads == "token_kl" or any(c.needs_token_kl for c in self.estimator.controls)

    @property
    def self_normalised(self) -> bool:
        """Whether the divisor is the sum of the weights."""
        return self.truncation is not None and self.truncation.self_normalised

    @property
    def without_controls(self) -> Recipe:
        """The same of summands from which controls have been subtracted."""
        return replace(self, estimator=replace(self.estimator, controls=(), valued=False))

    def valued(self, batch: Sequences | Ragged) -> bool:
        """Whether token values are subtracted from a batch."""
        plain = self.level == "token" and self.truncation is None
        return self.estimator.valued and plain and Held.takes(batch)

    def check(self, sequences: Sequences | Ragged) -> None:
        """Hold that a batch has the columns that are read.

        Raises:
            InputError: it lacks the token KLs.
        """
        if self.needs_token_kl and sequences.token_kl is None:
            raise InputError(
                f"{self.estimator.name} needs token_kl, the exact KL over the vocabulary at each prefix, and did not "
                "get it: pass token_kl=… (kullback.compare computes it) or use an estimator of log-ratios such as "
                "kullback.K3"
            )

    def summarise(self, sequences: Sequences, workings: Workings | None = None) -> Summary:
        """The summary of a few float64 rows.

        Args:
            sequences: the rows.
            workings: what recipes with the same level and truncation have worked out of them.
        """
        if workings is None:
            workings = Workings.of(sequences, self.level, self.truncation)
        block, filled = workings.block, workings.filled
        summand, overflow = self._worked(workings)
        rows = self._rows(block, summand)
        finite = np.asarray(np.isfinite(rows).all(axis=1))
        cell = np.flatnonzero(finite) % ROW_CELLS
        keys = None if sequences.groups is None else workings.keys(finite)
        where = np.zeros(sequences.mask.shape, dtype=bool)
        where[filled] = overflow if self.level == "token" else overflow & block.last
        ratios = _scaled(rows[finite])
        return Summary(
            rows=int(filled.sum()),
            empty=int((~filled).sum()),
            infinite=int((~finite).sum()),
            cells=Moments.of(cell, rows[finite], ROW_CELLS),
            prompts=None if keys is None else KeyedMoments.at(keys, rows[finite]),
            ratios=workings.ratios,
            weights=workings.weights,
            summands=Tail.of(_log(rows[finite, NUMERATOR])),
            **workings.weight_powers,
            mismatches=workings.mismatches,
            overflows=Oddities.of(where),
            **self._extremes(workings, summand, rows, finite),
            span=(float(ratios.min(initial=np.inf)), float(ratios.max(initial=-np.inf))),
            equal=workings.equal,
        )

    def totals(self, workings: Workings) -> Float64:
        """The summand of every row that has a counted token, (rows,); inf where it overflows."""
        return np.asarray(self._worked(workings)[0].sum(axis=1))

    def _worked(self, workings: Workings) -> tuple[Float64, np.ndarray]:
        return workings.once(("summand", self.estimator), lambda: self._summands(workings.block))

    def parts(self, sequences: Sequences) -> Float64:
        """How much of the summand every token of a few sequences is, at level "token"; each has a counted token."""
        return np.asarray(np.abs(self._summands(Block.of(sequences, self.level, self.truncation))[0]))

    def _extremes(self, workings: Workings, summand: Float64, rows: Float64, finite: np.ndarray) -> dict[str, Extremes]:
        """The sequences that move the estimate most, each way it can be moved."""
        sequences, number = workings.sequences, workings.number
        size, odd = (np.where(finite, rows[:, column], np.nan) for column in (NUMERATOR, CHECK))

        def unlikely(chosen: np.ndarray) -> Float64:
            rows = sequences.select(number[chosen])
            # Not 0, which a masked token would win with.
            return np.asarray(np.where(rows.mask, -rows.log_ratio(), -np.inf))

        def parts(chosen: np.ndarray) -> Float64:
            if self.level == "token":
                return np.asarray(np.abs(summand[chosen]))
            return np.asarray(np.abs(sequences.select(number[chosen]).log_ratio()))

        kinds = {
            "highest": (size, parts),
            "lowest": (-size, parts),
            "unlikeliest": (workings.unlikely, unlikely),
            "heaviest": (workings.heavy, parts),
            "oddest": (np.abs(odd), unlikely),
        }
        # Which of them, and at which token, is the same whatever the sum is divided by.
        places = workings.once(
            ("places", self.estimator, finite.tobytes()),
            lambda: {name: Extremes.places_of(of, tokens) for name, (of, tokens) in kinds.items()},
        )
        return {
            name: Extremes(of[at], number[at], token, rows[at])
            for (name, (of, _)), (at, token) in zip(kinds.items(), places.values(), strict=True)
        }

    def _summands(self, block: Block) -> tuple[Float64, np.ndarray]:
        """What every token adds, (batch, time), and where the estimator overflowed."""
        reads_kl = self.estimator.reads == "token_kl"
        x = block.token_kl if reads_kl else block.log_ratio
        with np.errstate(all="ignore"):
            value = self.estimator.fn(x)
            summand = np.where(block.mask, _weighted(block.before if reads_kl else block.weight, value), 0.0)
        return summand, np.isfinite(x) & ~np.isfinite(value) & block.mask

    def _rows(self, block: Block, summand: Float64) -> Float64:
        """The columns of every row (rows, columns)."""
        with np.errstate(all="ignore"):
            total = summand.sum(axis=1)
            controls = [block.sums(control.fn(block)) for control in self.columns]
        if CHECK not in self.fitted:
            controls[0] = np.clip(controls[0], -CHECK_LIMIT, CHECK_LIMIT)
        return np.stack([total, self._divisor(block), *controls], axis=1)

    def _divisor(self, block: Block) -> Float64:
        if self.unit == "sequence":
            return block.whole if self.self_normalised else np.ones_like(block.whole)
        if self.level == "sequence" or self.self_normalised:
            return block.whole * block.length
        return block.sums(block.weight)


def _log(values: Float64) -> Float64:
    """log of the positive values, −inf for the others."""
    return np.log(values, out=np.full_like(values, -np.inf), where=values > 0)


def _scaled(rows: Float64) -> Float64:
    """Each row's own ratio of summand and divisor; rows that nothing divides are left out."""
    divided = rows[:, DENOMINATOR] > 0
    return np.asarray(rows[divided, NUMERATOR] / rows[divided, DENOMINATOR])


def _weighted(weight: Float64, value: Float64) -> Float64:
    """weight·value, where a weight of 0 beats an infinite value."""
    return np.where(weight > 0, weight * np.where(weight > 0, value, 0.0), 0.0)
