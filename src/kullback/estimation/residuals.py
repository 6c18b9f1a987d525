"""What single sequences add to a ratio beyond their share, and which of them stand apart from all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.extremes import Extremes, Influence
from kullback.estimation.recipe import DENOMINATOR

APART = 3.0
"""Standard errors of the rest by which a few sequences move the value where they are said to stand apart. The largest
two of 512 exponential summands move it by 0.7, of 64 by 0.9; two rows in 120 scored against another row's tokens by
more than 5."""

MOST_APART = 4
"""Sequences that may stand apart together, and no more than one in 50: without the largest four of 40 any skewed sample
is another one, and many together are a heavy tail."""

FEWEST = 20
"""Sequences below which nothing is called apart."""


@dataclass(frozen=True)
class Apart:
    """Sequences without which the value and its error would be others."""

    rows: tuple[int, ...]
    value_change: float
    stderr: float


@dataclass(frozen=True)
class Residuals:
    """The sequences with the largest residuals e = (summand + controls) − value·divisor, largest first.

    Attributes:
        row, token: where they are, (k,).
        residual, divisor: of each, (k,).
        squares: Σ e² over all sequences.
        total: Σ of the divisors of all sequences.
        count: sequences in all.
    """

    row: np.ndarray
    token: np.ndarray
    residual: Float64
    divisor: Float64
    squares: float
    total: float
    count: int

    @classmethod
    def of(
        cls, extremes: Sequence[Extremes], direction: Float64, squares: float, total: float, count: int
    ) -> Residuals:
        """Of the sequences that are remembered, each once."""
        row, token = (np.concatenate([getattr(one, name) for one in extremes]) for name in ("row", "token"))
        columns = np.concatenate([one.columns for one in extremes])
        residual = columns @ direction
        _, first = np.unique(row, return_index=True)
        order = first[np.argsort(-np.abs(residual[first]), kind="stable")]
        return cls(
            row=row[order],
            token=token[order],
            residual=residual[order],
            divisor=columns[order, DENOMINATOR],
            squares=squares,
            total=total,
            count=count,
        )

    def influences(self) -> tuple[Influence, ...]:
        """What the value loses without each, largest change first."""
        rest = self.total - self.divisor
        changes = np.divide(self.residual, rest, out=np.zeros_like(rest), where=rest > 0)
        order = np.argsort(-np.abs(changes), kind="stable")
        return tuple(Influence(int(self.row[i]), int(self.token[i]), float(changes[i])) for i in order)

    def apart(self) -> Apart | None:
        """The few sequences that move the value by more than the others can explain, or None."""
        if self.count < FEWEST:
            return None
        sizes = np.arange(1, min(MOST_APART, len(self.residual), max(1, self.count // 50)) + 1)
        moved = np.cumsum(self.residual)[: len(sizes)]
        squares = self.squares - np.cumsum(self.residual**2)[: len(sizes)]
        rest, left = self.total - np.cumsum(self.divisor)[: len(sizes)], self.count - sizes
        variance = np.maximum(squares - moved**2 / left, 0.0) * left / (left - 1)
        if not (rest > 0).all():
            return None
        change, stderr = moved / rest, np.sqrt(variance) / rest
        floor = np.maximum(stderr, 1e-12 * np.abs(change))
        ratio = np.divide(np.abs(change), floor, out=np.zeros_like(change), where=floor > 0)
        if not ratio.max() > APART:
            return None
        # The fewest that explain nearly as much: a further row among the ordinary ones always adds a little.
        best = int(np.flatnonzero(ratio >= 0.8 * ratio.max())[0])
        return Apart(tuple(sorted(self.row[: best + 1].tolist())), float(change[best]), float(stderr[best]))
