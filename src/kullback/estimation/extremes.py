"""The few sequences that move an estimate most, and where in them: remembered in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64

KEPT = 8
"""Sequences remembered of each kind: more than a sentence can name."""


@dataclass(frozen=True)
class Extremes:
    """The sequences at which something is largest, largest first.

    Attributes:
        size: what they are ranked by, (k,).
        row: their numbers among all sequences, (k,).
        token: the position in each that has the largest part in it, (k,).
        columns: their columns of the moments, (k, columns).
    """

    size: Float64
    row: np.ndarray
    token: np.ndarray
    columns: Float64

    @classmethod
    def nothing(cls, columns: int) -> Extremes:
        """Of no sequence."""
        none = np.empty(0, dtype=np.intp)
        return cls(np.empty(0), none, none, np.empty((0, columns)))

    @staticmethod
    def places_of(size: Float64, parts: Callable[[np.ndarray], Float64]) -> tuple[np.ndarray, np.ndarray]:
        """Which of some sequences are the largest, and the token of each that has the largest part.

        Args:
            size: what they are ranked by, (n,); nan is left out.
            parts: of the sequences chosen, what each token adds to it, (chosen, time).
        """
        chosen = largest_of(size)
        return chosen, np.argmax(parts(chosen), axis=1)

    def __add__(self, other: Extremes) -> Extremes:
        size = np.concatenate([self.size, other.size])
        first = np.argsort(-size, kind="stable")[:KEPT]
        row, token = (np.concatenate([getattr(self, n), getattr(other, n)])[first] for n in ("row", "token"))
        return Extremes(size[first], row, token, np.concatenate([self.columns, other.columns])[first])

    @property
    def floor(self) -> float:
        """What a size has to exceed to be remembered beside these."""
        return float(self.size[-1]) if len(self.size) == KEPT else -np.inf

    def shifted(self, rows: int) -> Extremes:
        """The same sequences, numbered from `rows` on."""
        return Extremes(self.size, self.row + rows, self.token, self.columns)

    def places(self, most: int = 3) -> str:
        """Where the first of them are, in words: row 17 at position 3, row 63 at position 0."""
        return ", ".join(f"row {r} at position {t}" for r, t in zip(self.row[:most], self.token[:most], strict=True))


def largest_of(size: Float64) -> np.ndarray:
    """Where the largest numbers are, the largest first; nan is left out."""
    chosen = np.flatnonzero(~np.isnan(size))
    if chosen.size > KEPT:
        chosen = chosen[np.argpartition(-size[chosen], KEPT)[:KEPT]]
    return chosen[np.argsort(-size[chosen], kind="stable")]


@dataclass(frozen=True)
class Influence:
    """A sequence that moves an estimate.

    Attributes:
        row: its number, from 0, in the order in which sequences were handed over.
        token: the position in it that has the largest part.
        change: the estimate minus what it would be without the sequence, in the estimate's unit.
    """

    row: int
    token: int
    change: float
