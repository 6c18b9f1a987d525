"""What is remembered of a stream of independent numbers: how many, their mean, their spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations; those of two streams add up.

    Example:
        >>> import numpy as np
        >>> whole = Moments.of(np.array([1.0, 2.0, 6.0]))
        >>> parts = Moments.of(np.array([1.0])) + Moments.of(np.array([2.0, 6.0]))
        >>> whole.mean == parts.mean, round(whole.deviation, 6) == round(parts.deviation, 6)
        (True, True)
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Float64) -> Moments:
        """Those of some numbers."""
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(values.size, mean, float(((values - mean) ** 2).sum()))

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if not n:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        return Moments(n, mean, self.squares + other.squares + gap**2 * self.n * other.n / n)

    @property
    def deviation(self) -> float:
        """The standard deviation of one number; nan from fewer than two."""
        return float(np.sqrt(self.squares / (self.n - 1))) if self.n > 1 else float("nan")
