"""How heavy a tail is: Pareto-smoothed importance sampling's k̂ of a ratio.

k̂ estimates the shape of a generalised Pareto distribution fitted to the largest ratios. Moments up to
order 1/k exist: at k̂ ≥ 0.5 the mean of the ratio has infinite variance, at k̂ ≥ 0.7 its mean and its
standard error can't be trusted at practical sample sizes.

Sources: Vehtari, Simpson, Gelman, Yao & Gabry 2024 (JMLR 25), sections 2–3; Zhang & Stephens 2009,
“A New and Efficient Estimation Method for the Generalized Pareto Distribution”.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kullback.arrays import Float64

HEAVY_TAIL = 0.7
"""The k̂ from which means of a ratio are not to be trusted (Vehtari et al. 2024)."""

FEWEST = 6
"""Values in the tail that a verdict needs, that is 30 in all: with 5, the quartile that Zhang & Stephens start from is
the smallest excess, and 10% to 20% of harmless samples are accused; with 6, 2% to 4%."""

CAUTION, CERTAIN = 0.5, 48
"""k̂ errs like 1/√(tail's size): with a tail of less than 48 values (240 in all) more than 0.7 is asked for. Harmless
tails are then accused in at most 3% of samples of 30 to 100, and those of k = 0.3 in 3% to 6% instead of 5% to 12%."""

KEPT = 4096
"""Largest values a tail remembers, 32 kB: the whole tail of 3√n up to 1.8 million ratios, of more its far part."""


LOT = 3 * KEPT
"""Numbers above the threshold that are held before they are sorted out."""


@dataclass(frozen=True)
class Tail:
    """The largest log-ratios seen and how many were seen in all; tails merge exactly, in any order."""

    count: int
    largest: Float64

    @classmethod
    def of(cls, log_ratios: Float64) -> Tail:
        """The tail of log-ratios of any shape; +inf and nan are left out."""
        values = log_ratios[log_ratios < np.inf].ravel().astype(np.float64)
        return cls(values.size, _top(values))

    def __add__(self, other: Tail) -> Tail:
        return Tail(self.count + other.count, _top(np.concatenate([self.largest, other.largest])))

    @property
    def floor(self) -> float:
        """What a number has to exceed to change the tail."""
        return float(self.largest.min()) if len(self.largest) == KEPT else -np.inf

    @property
    def judged(self) -> bool:
        """Whether there are enough values for a verdict."""
        return _tail_size(self.count) >= FEWEST

    def khat(self) -> float:
        """PSIS k̂, or nan where too few different ratios lie beyond the cutoff."""
        return self._khat

    @cached_property
    def _khat(self) -> float:
        # Of summands of both signs those that are negative have a log of −inf, which is no cutoff.
        ordered = np.sort(self.largest[np.isfinite(self.largest)])
        size = min(_tail_size(self.count), len(ordered) - 1)
        if size < FEWEST:
            return float("nan")
        cutoff = ordered[-size - 1]
        tail = ordered[-size:]
        tail = tail[tail > cutoff]
        # Many equal values are a discrete distribution, to which no Pareto tail can be fitted.
        if np.unique(tail).size < max(FEWEST - 1, size // 2):
            return float("nan")
        # Excesses over the cutoff, relative to it: the shape does not depend on the scale.
        return pareto_shape(np.expm1(np.minimum(tail - cutoff, 700.0)))

    @property
    def heavy(self) -> bool:
        """Whether k̂ is beyond 0.7 by more than it errs for a tail of so few values."""
        size = max(_tail_size(self.count), 1)
        return bool(self.khat() >= HEAVY_TAIL + CAUTION * max(0.0, size**-0.5 - CERTAIN**-0.5))


class TailBuffer:
    """The tail of many numbers that come a few at a time: those above a threshold are kept, and sorted out in lots."""

    def __init__(self, floor: float = -np.inf) -> None:
        self._count = 0
        self._floor = floor
        self._held: list[Float64] = []
        self._size = 0

    def add(self, count: int, above: Callable[[float], Float64]) -> None:
        """More finite numbers: how many, and what gives those of them that are beyond a threshold, (n,)."""
        self._count += count
        found = above(self._floor)
        self._held.append(found)
        self._size += len(found)
        if self._size > LOT:
            self._settle()

    def _settle(self) -> None:
        top = _top(np.concatenate(self._held)) if self._held else np.empty(0)
        self._held, self._size = [top], len(top)
        self._floor = max(self._floor, float(top.min())) if len(top) == KEPT else self._floor

    def tail(self) -> Tail:
        """That of all of them."""
        self._settle()
        return Tail(self._count, self._held[0])


def _tail_size(count: int) -> int:
    return min(int(min(count / 5.0, 3.0 * count**0.5)), KEPT - 1)


def _top(values: Float64) -> Float64:
    return values if values.size <= KEPT else np.partition(values, -KEPT)[-KEPT:]


def pareto_shape(excesses: Float64) -> float:
    """Shape k of a generalised Pareto distribution, by Zhang & Stephens' posterior mean.

    With the weakly informative prior of Vehtari et al. (10 observations at k = ½).

    Args:
        excesses: positive excesses over a threshold, in any order.
    """
    x = np.sort(excesses)
    n = x.size
    points = 30 + int(n**0.5)
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (3.0 * quartile)
    shape = np.log1p(-theta[:, None] * x).mean(axis=1)
    # θ/k tends to −1/mean(x) where the two vanish together.
    slope = np.divide(-theta, shape, out=np.full_like(theta, 1.0 / x.mean()), where=shape != 0)
    log_likelihood = n * (np.log(slope) - shape - 1.0)
    weight = np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    best = float(np.sum(theta * weight))
    return float((n * np.log1p(-best * x).mean() + 5.0) / (n + 10.0))
