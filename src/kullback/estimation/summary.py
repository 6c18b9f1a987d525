"""What is remembered of sequences: moments, tails and counts, in constant memory, merged by ``+``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, TypedDict

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError
from kullback.estimation.extremes import Extremes
from kullback.estimation.moments import KeyedMoments, Moments
from kullback.estimation.tails import Tail

ROW_CELLS = 1024
"""Cells that rows are dealt to in turn: leave-one-out is exact up to this many sequences."""

GROUP_CELLS = 4096
"""Prompts kept apart; beyond this many they share cells by hash, which keeps clusters independent."""


EXTREMES = ("highest", "lowest", "unlikeliest", "heaviest", "oddest")
"""What is remembered of single sequences."""


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
        weight_excess: Σ(ρ − 1), Σ(ρ − 1)² and Σ(ρ − 1)³.
        mismatches: tokens the reference excludes.
        overflows: tokens where the estimator overflowed.
        highest, lowest: the sequences with the largest and the smallest summands.
        unlikeliest: those with the largest p/q, at a token or whole.
        heaviest: those with the largest importance weights.
        oddest: those whose Σ(r − 1) is furthest from 0.
        span: the smallest and the largest summand over what divides it.
        equal: whether every log-ratio is exactly 0.
    """

    rows: int
    empty: int
    infinite: int
    cells: Moments
    prompts: KeyedMoments | None
    ratios: Tail
    weights: Tail
    summands: Tail
    weight_sums: tuple[float, ...]
    weight_excess: tuple[float, ...]
    mismatches: Oddities
    overflows: Oddities
    highest: Extremes
    lowest: Extremes
    unlikeliest: Extremes
    heaviest: Extremes
    oddest: Extremes
    span: tuple[float, float]
    equal: bool

    @classmethod
    @cache
    def nothing(cls, columns: int) -> Summary:
        """The summary of no sequence; nobody writes into its tables."""
        none = Tail.of(np.empty(0))
        cells = Moments.empty(ROW_CELLS, columns)
        return cls(
            rows=0,
            empty=0,
            infinite=0,
            cells=cells,
            prompts=None,
            ratios=none,
            weights=none,
            summands=none,
            weight_sums=(0.0, 0.0),
            weight_excess=(0.0, 0.0, 0.0),
            mismatches=Oddities(),
            overflows=Oddities(),
            **dict.fromkeys(EXTREMES, Extremes.nothing(columns)),
            span=(np.inf, -np.inf),
            equal=True,
        )

    @property
    def grouped(self) -> bool:
        """Whether prompts, not rows, are what is independent; one prompt alone would leave no error."""
        return self.prompts is not None and len(self.prompts.keys) > 1

    @property
    def clusters(self) -> int:
        """Independent prompts, or sequences."""
        return len(self.independent.count) if self.grouped else self.rows

    @property
    def worth(self) -> float:
        """As many clusters of equal size would do: (Σn)²/Σn², n the sequences of each."""
        count = self.independent.count if self.grouped else np.ones(self.rows)
        return float(count.sum() ** 2 / np.sum(count**2))

    @cached_property
    def together(self) -> Moments:
        """The moments of all finite sequences, as one cell."""
        return self.independent.total()

    @cached_property
    def independent(self) -> Moments:
        """The cells that are left out one at a time: prompts where there are several, else rows dealt in turn."""
        return (self.prompts.cells if self.grouped and self.prompts else self.cells).nonempty()

    def __add__(self, later: Summary) -> Summary:
        """These sequences followed by later ones."""
        if self.rows and later.rows and (self.prompts is None) != (later.prompts is None):
            raise InputError("one part came with groups and the other without: give groups to both or to neither")
        before = self.rows + self.empty
        if not before:
            return later
        return Summary(
            rows=self.rows + later.rows,
            empty=self.empty + later.empty,
            infinite=self.infinite + later.infinite,
            cells=self.cells + later.cells.rolled(self.rows),
            prompts=_joined(self.prompts, later.prompts),
            ratios=self.ratios + later.ratios,
            weights=self.weights + later.weights,
            summands=self.summands + later.summands,
            weight_sums=_added(self.weight_sums, later.weight_sums),
            weight_excess=_added(self.weight_excess, later.weight_excess),
            mismatches=self.mismatches.then(later.mismatches, before),
            overflows=self.overflows.then(later.overflows, before),
            highest=self.highest + later.highest.shifted(before),
            lowest=self.lowest + later.lowest.shifted(before),
            unlikeliest=self.unlikeliest + later.unlikeliest.shifted(before),
            heaviest=self.heaviest + later.heaviest.shifted(before),
            oddest=self.oddest + later.oddest.shifted(before),
            span=(min(self.span[0], later.span[0]), max(self.span[1], later.span[1])),
            equal=self.equal and later.equal,
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
                **{name: Extremes(**state[name]) for name in EXTREMES},
                "span": tuple(state["span"]),
            }
        )


class WeightPowers(TypedDict):
    """What a summary remembers of the sequences' importance weights."""

    weight_sums: tuple[float, float]
    weight_excess: tuple[float, float, float]


def weight_powers(weight: Float64) -> WeightPowers:
    """The sums of the sequences' importance weights, (rows,), and of their excess over 1."""
    excess = weight - 1.0
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is said in words
        return {
            "weight_sums": (float(weight.sum()), float((weight**2).sum())),
            "weight_excess": (float(excess.sum()), float((excess**2).sum()), float((excess**3).sum())),
        }


def _added(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _joined(first: KeyedMoments | None, second: KeyedMoments | None) -> KeyedMoments | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
