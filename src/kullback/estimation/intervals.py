"""Confidence intervals for a mean whose summands are skewed."""

from __future__ import annotations

import math

LOG_UP_TO = 0.5
"""Relative standard error up to which an interval of the logarithm is looked at: beyond it a factor says little."""

UNSEEN = 1.5
"""What a sample's skewness is multiplied by: it is too small where a long tail was hardly seen, and there it matters.
Without it a sequence's k3 covers 92% at 512 prompts × 1 and at 32 × 8 whose KLs have a coefficient of variation of
1.4, Rao-Blackwell 93% at 32 × 8; with it 94% to 96%, and at most 96.6% where prompts differ less (1,000 draws)."""


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t; scipy is loaded only when an interval is asked for."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def mean_interval(
    value: float,
    stderr: float,
    skewness: float,
    clusters: int,
    *,
    freedom: float | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """The wider, at either end, of Hall's interval and, for a value well above 0, one of its logarithm.

    KLs differ between prompts by factors, so that few or unequal prompts have a long right tail that Hall's correction
    sees only in part. Of lognormal KLs with a coefficient of variation of 0.5 it covers 93% at 4 prompts and 95% from 8
    on, what is returned 96%; of 1.4, 87%, 91% and 91% at 4, 8 and 20 prompts, and 92%, 93% and 94% (2,500 draws).

    Args:
        value, stderr: of the mean.
        skewness: γ̂, third standardised moment of the summands (of the clusters' sums), as it comes; its bias in small
            samples, which is towards 0, is undone here.
        clusters: how many independent summands.
        freedom: degrees of freedom of the error; clusters − 1 unless given.
        level: of confidence.
    """
    freedom = clusters - 1 if freedom is None else freedom
    unbiased = skewness * math.sqrt(clusters * (clusters - 1)) / (clusters - 2) if clusters > 2 else 0.0
    low, high = skewed_interval(value, stderr, UNSEEN * unbiased, clusters, freedom=freedom, level=level)
    if 0.0 < stderr < LOG_UP_TO * value:
        factor = math.exp(t_quantile(0.5 + level / 2.0, freedom) * stderr / value)
        low, high = min(low, value / factor), max(high, value * factor)
    return low, high


def skewed_interval(
    value: float,
    stderr: float,
    skewness: float,
    clusters: int,
    *,
    freedom: float | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """The interval of Student's t, corrected for skewness by Hall's monotone cubic transformation.

    T = (mean − truth)/stderr is skewed against its summands: where they have a long right tail, the truth is
    above the symmetric interval too often (coverage 92% at a skewness of 4 and 64 samples, 77% in a heavy
    tail; 94% and 89% with the correction). g(T) = T + γ̂(T²/3 + 1/6)/√n + γ̂²T³/(27n) is closer to normal, and
    is inverted in closed form.

    Args:
        value, stderr: of the mean.
        skewness: γ̂, third standardised moment of the summands (of the clusters' sums).
        clusters: how many independent summands.
        freedom: degrees of freedom of the error; clusters − 1 unless given.
        level: of confidence.

    Reference: Hall 1992, “On the Removal of Skewness by Transformation”, J. R. Statist. Soc. B 54, eq. (2.4).
    """
    quantile = t_quantile(0.5 + level / 2.0, clusters - 1 if freedom is None else freedom)
    root = math.sqrt(clusters)

    def untransformed(t: float) -> float:
        slope = skewness / (3.0 * root)
        if abs(slope) < 1e-9:
            return t
        return (math.cbrt(1.0 + 3.0 * slope * (t - skewness / (6.0 * root))) - 1.0) / slope

    return value - stderr * untransformed(quantile), value - stderr * untransformed(-quantile)
