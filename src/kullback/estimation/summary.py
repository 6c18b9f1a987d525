"""What is remembered of sequences: moments, tails and counts, in constant memory, merged by ``+``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError
from kullback.estimation.block import Block
from kullback.estimation.moments import KeyedMoments, Moments
from kullback.estimation.sequences import Sequences
from kullback.estimation.tails import Tail
from kullback.estimators import Estimator
from kullback.estimators.controls import RATIO, Control
from kullback.weights import Truncation

ROW_CELLS = 1024
"""Cells that rows are dealt to in turn: leave-one-out is exact up to this many sequences."""

GROUP_CELLS = 4096
"""Prompts kept apart; beyond this many they share cells by hash, which keeps clusters independent."""

NUMERATOR, DENOMINATOR, CHECK = 0, 1, 2
"""Columns of the moments: the summand, what it is divided by, and r − 1, whose mean must be 0; then controls."""

CHECK_LIMIT = 1e90
"""Where r − 1 only serves as a check it is cut off here, so that its moments stay finite."""


@dataclass(frozen=True)
class Oddities:
    """How often something happened, and where first: (row, token)."""

    count: int = 0
    first: tuple[int, int] | None = None

    @classmethod
    def of(cls, wrong: np.ndarray) -> Oddities:
        """The places where `wrong` (batch, time) is True."""
        if not wrong.any():
            return cls()
        row, token = (int(i) for i in np.argwhere(wrong)[0])
        return cls(int(wrong.sum()), (row, token))

    def then(self, later: Oddities, rows: int) -> Oddities:
        """These and later ones, which were counted from a row that is row number `rows` here."""
        moved = None if later.first is None else (later.first[0] + rows, later.first[1])
        return Oddities(self.count + later.count, self.first or moved)

    def __str__(self) -> str:
        row, token = self.first or (0, 0)
        return f"{self.count} token(s), the first in row {row} at position {token}"


@dataclass(frozen=True)
class Summary:
    """Everything an accumulator remembers.

    Attributes:
        rows: sequences seen, empty ones not counted.
        empty: rows without a counted token, left out.
        infinite: sequences whose summand is not finite.
        cells: moments of the finite sequences, dealt to cells in turn.
        prompts: the same by prompt, where groups were given.
        ratios: the tail of p/q, by token or by sequence.
        weights: the tail of the sequences' importance weights.
        summands: the tail of what is averaged.
        weight_sums: Σρ and Σρ².
        mismatches: tokens the reference excludes.
        overflows: tokens where the estimator overflowed.
    """

    rows: int
    empty: int
    infinite: int
    cells: Moments
    prompts: KeyedMoments | None
    ratios: Tail
    weights: Tail
    summands: Tail
    weight_sums: tuple[float, float]
    mismatches: Oddities
    overflows: Oddities

    @classmethod
    def nothing(cls, columns: int) -> Summary:
        """The summary of no sequence."""
        none = Tail.of(np.empty(0))
        cells = Moments.empty(ROW_CELLS, columns)
        return cls(0, 0, 0, cells, None, none, none, none, (0.0, 0.0), Oddities(), Oddities())

    def __add__(self, later: Summary) -> Summary:
        """These sequences followed by later ones."""
        if self.rows and later.rows and (self.prompts is None) != (later.prompts is None):
            raise InputError("one part came with groups and the other without: give groups to both or to neither")
        both = self.prompts is not None and later.prompts is not None
        return Summary(
            rows=self.rows + later.rows,
            empty=self.empty + later.empty,
            infinite=self.infinite + later.infinite,
            cells=self.cells + later.cells.rolled(self.rows),
            prompts=self.prompts + later.prompts if both else self.prompts or later.prompts,  # type: ignore[operator]
            ratios=self.ratios + later.ratios,
            weights=self.weights + later.weights,
            summands=self.summands + later.summands,
            weight_sums=(
                self.weight_sums[0] + later.weight_sums[0],
                self.weight_sums[1] + later.weight_sums[1],
            ),
            mismatches=self.mismatches.then(later.mismatches, self.rows + self.empty),
            overflows=self.overflows.then(later.overflows, self.rows + self.empty),
        )

    def to_state(self) -> dict[str, Any]:
        """Plain dicts, numbers and NumPy arrays, for a checkpoint or another process."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Summary:
        """The summary that `to_state` wrote."""
        prompts = state["prompts"]
        return cls(
            **{
                **state,
                "cells": Moments(**state["cells"]),
                "prompts": prompts and KeyedMoments(**{**prompts, "cells": Moments(**prompts["cells"])}),
                "ratios": Tail(**state["ratios"]),
                "weights": Tail(**state["weights"]),
                "summands": Tail(**state["summands"]),
                "mismatches": Oddities(**state["mismatches"]),
                "overflows": Oddities(**state["overflows"]),
            }
        )


@dataclass(frozen=True)
class Recipe:
    """What is summed: an estimator at a level, in a unit, with or without tamed weights."""

    estimator: Estimator
    level: str
    unit: str
    truncation: Truncation | None

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
    def self_normalised(self) -> bool:
        """Whether the divisor is the sum of the weights."""
        return self.truncation is not None and self.truncation.self_normalised

    def summarise(self, block: Sequences) -> Summary:
        """The summary of one block of float64 rows."""
        filled = np.asarray(block.mask.any(axis=1))
        tokens = Block.of(block.select(filled), self.level, self.truncation)
        rows, overflow = self._rows(tokens)
        finite = np.isfinite(rows).all(axis=1)
        cell = np.flatnonzero(finite) % ROW_CELLS
        keys = None if block.groups is None else block.groups[filled][finite].tolist()
        where = np.zeros(block.mask.shape, dtype=bool)
        where[filled] = overflow if self.level == "token" else overflow & tokens.last
        return Summary(
            rows=int(filled.sum()),
            empty=int((~filled).sum()),
            infinite=int((~finite).sum()),
            cells=Moments.of(cell, rows[finite], ROW_CELLS),
            prompts=None if keys is None else KeyedMoments.of(keys, rows[finite], GROUP_CELLS),
            ratios=Tail.of(-tokens.log_ratio[tokens.mask]),
            weights=Tail.of(tokens.log_weight),
            summands=Tail.of(_log(rows[finite, NUMERATOR])),
            weight_sums=(float(tokens.whole.sum()), float((tokens.whole**2).sum())),
            mismatches=Oddities.of(np.isneginf(block.ref_logprobs) & block.mask),
            overflows=Oddities.of(where),
        )

    def _rows(self, tokens: Block) -> tuple[Float64, np.ndarray]:
        """The columns of every row (rows, columns), and where the estimator overflowed."""
        reads_kl = self.estimator.reads == "token_kl"
        x = tokens.token_kl if reads_kl else tokens.log_ratio
        with np.errstate(all="ignore"):
            value = self.estimator.fn(x)
            summand = tokens.sums(_weighted(tokens.before if reads_kl else tokens.weight, value))
            controls = [tokens.sums(control.fn(tokens)) for control in self.columns]
        if CHECK not in self.fitted:
            controls[0] = np.clip(controls[0], -CHECK_LIMIT, CHECK_LIMIT)
        overflow = np.isfinite(x) & ~np.isfinite(value) & tokens.mask
        return np.stack([summand, self._divisor(tokens), *controls], axis=1), overflow

    def _divisor(self, tokens: Block) -> Float64:
        if self.unit == "sequence":
            return tokens.whole if self.self_normalised else np.ones_like(tokens.whole)
        if self.level == "sequence" or self.self_normalised:
            return tokens.whole * tokens.length
        return tokens.sums(tokens.weight)


def _log(values: Float64) -> Float64:
    """log of the positive values, −inf for the others."""
    return np.log(values, out=np.full_like(values, -np.inf), where=values > 0)


def _weighted(weight: Float64, value: Float64) -> Float64:
    """weight·value, where a weight of 0 beats an infinite value."""
    return np.where(weight > 0, weight * np.where(weight > 0, value, 0.0), 0.0)
