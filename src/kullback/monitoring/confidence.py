"""Bounds of a mean that hold at every look, however often one looks."""

from __future__ import annotations

from math import inf, log

import numpy as np

from kullback.arrays import Float64
from kullback.monitoring.moments import Moments

FEWEST = 32
"""Units from which the sequence is used: it is asymptotic, and says nothing of fewer."""


def asymptotic_interval(
    moments: Moments, alpha: float, *, tightest_at: int = 500, deviation: float = 0.0
) -> tuple[float, float]:
    """The asymptotic confidence sequence of a mean of independent units, after the units seen so far.

    mean ± σ̂ √(2(tρ² + 1)/(t²ρ²) · log(√(tρ² + 1)/α)), where ρ² = (−2 log α + log(1 − 2 log α))/t* makes it tightest
    at t*. With probability 1 − α the mean is within *all* intervals of the stream, as the number of units before the
    first look grows; no interval is given (−∞, ∞) from fewer than 32.

    Args:
        moments: of the units.
        alpha: the probability that the mean ever leaves.
        tightest_at: t*, in units.
        deviation: of one unit, as a longer stream has it; the larger of the two is taken.

    Reference: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, arXiv 2103.06476, Theorem 2.2 and section 2.3.
    """
    if moments.n < FEWEST:
        return -inf, inf
    half = max(moments.deviation, deviation) * float(halfwidths(np.array(moments.n), alpha, tightest_at))
    return moments.mean - half, moments.mean + half


def halfwidths(t: np.ndarray, alpha: float, tightest_at: int) -> Float64:
    """Of `asymptotic_interval` after t units each, in standard deviations of one unit; (…,), t ≥ 1."""
    rho2 = (-2 * log(alpha) + log(1 - 2 * log(alpha))) / tightest_at
    spread = t * rho2 + 1
    return np.asarray(np.sqrt(2 * spread / (t**2 * rho2) * np.log(np.sqrt(spread) / alpha)))


BETS: Float64 = np.exp2(-np.arange(1.0, 11.0))
"""Shares of the largest bet that cannot lose all, from a half down: each finds departures of its own size first."""


class LowerBound:
    """A lower bound of the running conditional mean of numbers that are never negative, valid in finite samples.

    With ξ_i = (Y_i − û_i)/s, û_i ≤ s the mean before, and ψ(λ) = −log(1 − λ) − λ, exp(Σ λ(Y_i − μ_i)/s − ψ(λ)ξ_i²) is a
    supermartingale, since ξ ≥ −1. So with probability 1 − α, at every t at once,
    (1/t)Σ μ_i ≥ (1/t)[ΣY_i − s(log(K/α) + ψ(λ)Σξ_i²)/λ] for the best of K bets λ. Means may move; no moment is assumed.

    Args:
        scale: s, the size of a usual number; it must not depend on the numbers.
        alpha: the probability that the bound is ever above.

    Reference: Fan, Grama & Liu 2015, Lemma 4.1; Waudby-Smith et al., arXiv 2210.11133.
    """

    def __init__(self, scale: float, alpha: float) -> None:
        self.scale, self.alpha = scale, alpha
        self.n = 0
        self.total = 0.0
        self.squares = 0.0

    def update(self, values: Float64) -> None:
        """Add numbers, in their order."""
        before = self.total + np.concatenate([[0.0], np.cumsum(values)[:-1]])
        count = np.maximum(1, self.n + np.arange(values.size))
        guess = np.minimum(before / count, self.scale)
        self.squares += float((((values - guess) / self.scale) ** 2).sum())
        self.total += float(values.sum())
        self.n += values.size

    def bound(self) -> float:
        """The bound so far; 0, which numbers that are not negative have anyway, where it says no more."""
        if not self.n:
            return 0.0
        cost = (log(BETS.size / self.alpha) + (-np.log1p(-BETS) - BETS) * self.squares) / BETS
        return max(0.0, float((self.total - self.scale * cost.min()) / self.n))


def log_mean_exp(logs: Float64) -> float:
    """log of the mean of numbers given by their logs."""
    top = float(logs.max())
    return top + log(float(np.exp(logs - top).mean())) if np.isfinite(top) else top
