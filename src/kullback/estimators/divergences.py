"""Pure functions of the log-ratio ℓ = log q − log p of a sample x ~ q, with r = p/q = exp(−ℓ).

Each is written for any array library of the array API standard and never masks, reduces, detaches or
clips. Rounding is kept out of the small and the large ends alike: where a formula subtracts nearly equal
numbers (|ℓ| < 1) the Taylor series of the difference is summed instead, so that relative errors stay at a
few units in the last place and no value meant to be non-negative comes out negative.
Overflow gives inf; nan comes only from nan.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, log

from kullback.arrays import A, Elementwise, Namespace, namespace

_TERMS = 18
"""Taylor terms beyond the second order; the first one left out is under 2⁻⁵³ for |x| ≤ 1."""


def _series(x: A, coefficients: Sequence[float]) -> A:
    total = coefficients[-1] * x + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        total = total * x + coefficient
    return x * x * total


def _near_zero(x: A, coefficients: Sequence[float], beyond: A, xp: Namespace, radius: float = 1.0) -> A:
    """x² Σ c_k x^k where |x| < radius, else `beyond`; each branch sees only the arguments it is good for."""
    near = xp.abs(x) < radius
    return xp.where(near, _series(xp.where(near, x, xp.zeros_like(x)), coefficients), beyond)


def _finite(x: A, xp: Namespace) -> A:
    """x with ±inf replaced by the largest number, so that 0·∞ and ∞ − ∞ cannot arise."""
    limit = float(xp.finfo(x.dtype).max) / 4
    return xp.clip(x, -limit, limit)


def exp_gap(x: A) -> A:
    """exp(x) − 1 − x ≥ 0, the gap between exp and its tangent at 0, without cancellation.

    ``expm1(x) - x`` keeps one digit at |x| = 1e-7 in float32 and is negative for some x; this keeps all.
    """
    xp = namespace(x)
    coefficients = [1 / factorial(k) for k in range(2, _TERMS)]
    # Only +∞ is cut off, where the difference would be ∞ − ∞; −∞ has the gap ∞.
    beyond = xp.expm1(x) - xp.clip(x, max=float(xp.finfo(x.dtype).max) / 4)
    return _near_zero(x, coefficients, beyond, xp)


def k1(log_ratio: A) -> A:
    """ℓ: the log-ratio itself, f(r) = −log r. Its mean under q is KL(q‖p)."""
    return 1.0 * log_ratio


def k2(log_ratio: A) -> A:
    """½ℓ². Its mean is not KL(q‖p), nor any f-divergence: ½(log r)² is concave for r > e."""
    return 0.5 * log_ratio * log_ratio


def k3(log_ratio: A) -> A:
    """exp(−ℓ) − 1 + ℓ = (r − 1) − log r ≥ 0. Its mean under q is KL(q‖p) where supp p ⊆ supp q."""
    return exp_gap(-log_ratio)


def forward_k1(log_ratio: A) -> A:
    """−ℓ·exp(−ℓ) = r log r. Its mean under q is KL(p‖q) where supp p ⊆ supp q."""
    xp = namespace(log_ratio)
    return -_finite(log_ratio, xp) * xp.exp(-log_ratio)


def forward_k3(log_ratio: A) -> A:
    """r log r − (r − 1) ≥ 0: the Bregman gap of KL(p‖q), written exp(−ℓ)(exp(ℓ) − 1 − ℓ) where ℓ < 1."""
    xp = namespace(log_ratio)
    low = log_ratio < 1
    one = xp.ones_like(log_ratio)
    below, above = xp.where(low, log_ratio, one), xp.where(low, one, _finite(log_ratio, xp))
    return xp.where(low, xp.exp(-below) * exp_gap(below), 1.0 - (1.0 + above) * xp.exp(-above))


def jeffreys(log_ratio: A) -> A:
    """(r − 1) log r ≥ 0. Its mean under q is KL(q‖p) + KL(p‖q)."""
    return -log_ratio * namespace(log_ratio).expm1(-log_ratio)


def pearson_chi2(log_ratio: A) -> A:
    """(r − 1)² ≥ 0. Its mean under q is χ²(p‖q), the variance of r."""
    return namespace(log_ratio).expm1(-log_ratio) ** 2


def neyman_chi2(log_ratio: A) -> A:
    """(r − 1)²/r = r + 1/r − 2 ≥ 0. Its mean under q is χ²(q‖p)."""
    xp = namespace(log_ratio)
    return -xp.expm1(log_ratio) * xp.expm1(-log_ratio)


def squared_hellinger(log_ratio: A) -> A:
    """½(√r − 1)² ≥ 0. Its mean under q is 1 − Σ√(qp)."""
    return 0.5 * namespace(log_ratio).expm1(-0.5 * log_ratio) ** 2


def jensen_shannon(log_ratio: A) -> A:
    """½[r log(2r/(1+r)) + log(2/(1+r))] ≥ 0. Its mean under q is JS(q, p) ≤ log 2.

    With m = |ℓ| and s = exp(−m) it is g(m) for ℓ ≥ 0 and r·g(m) for ℓ < 0, where
    g = exp(−m/2)(h sinh h − cosh h log cosh h), h = m/2, near zero, else ½[(1+s)(log 2 − log1p(s)) − s·m].
    """
    xp = namespace(log_ratio)
    distance = xp.abs(_finite(log_ratio, xp))
    near = distance < 1
    half = xp.where(near, 0.5 * distance, xp.zeros_like(distance))
    log_cosh = xp.log1p(2.0 * xp.sinh(0.5 * half) ** 2)
    small = xp.exp(-half) * (half * xp.sinh(half) - xp.cosh(half) * log_cosh)
    s = xp.exp(-distance)
    large = 0.5 * ((1.0 + s) * (log(2.0) - xp.log1p(s)) - s * distance)
    gap = xp.where(near, small, large)
    below = xp.where(log_ratio < 0, log_ratio, xp.zeros_like(distance))
    return xp.exp(-below) * gap


def total_variation(log_ratio: A) -> A:
    """(1 − r)₊ ∈ [0, 1]. Its mean under q is ½Σ|q − p|, whatever the supports."""
    xp = namespace(log_ratio)
    return xp.clip(-xp.expm1(-log_ratio), 0.0, 1.0)


def total_variation_abs(log_ratio: A) -> A:
    """½|r − 1| ≥ 0. Its mean under q is ½Σ|q − p| where supp p ⊆ supp q."""
    xp = namespace(log_ratio)
    return 0.5 * xp.abs(xp.expm1(-log_ratio))


def alpha_gap(log_ratio: A, alpha: float) -> A:
    """(r^(1−α) − (1−α)(r−1) − 1)/(α(α−1)) ≥ 0. Its mean under q is Amari's α-divergence, α ≠ 0, 1."""
    xp = namespace(log_ratio)
    power = 1.0 - alpha
    scale = max(1.0, abs(power))
    limit = log(float(xp.finfo(log_ratio.dtype).max))
    inside = xp.clip(-log_ratio, -2.0 * limit, limit / scale)
    direct = (xp.expm1(power * inside) - power * xp.expm1(inside)) / (power * (power - 1.0))
    beyond = xp.where(-log_ratio > limit / scale, xp.exp(-log_ratio * scale), direct)
    coefficients = [sum(power**j for j in range(k - 1)) / factorial(k) for k in range(2, _TERMS)]
    return _near_zero(-_finite(log_ratio, xp), coefficients, beyond, xp, radius=1.0 / scale)


def skew_kl(log_ratio: A, weight: float) -> A:
    """−log(1 − β + βr) ≤ −log(1 − β), 0 < β < 1. Its mean under q is KL(q ‖ (1−β)q + βp)."""
    xp = namespace(log_ratio)
    high = log_ratio > -1.0
    zero = xp.zeros_like(log_ratio)
    above, below = xp.where(high, log_ratio, zero), xp.where(high, zero, log_ratio)
    far = below - log(weight) - xp.log1p((1.0 - weight) / weight * xp.exp(below))
    return xp.where(high, -xp.log1p(weight * xp.expm1(-above)), far)


def affinity(log_ratio: A, alpha: float) -> A:
    """r^(1−α) = exp((α−1)ℓ). Its mean under q is Σ q^α p^(1−α), from which Rényi's divergence is made."""
    return namespace(log_ratio).exp((alpha - 1.0) * log_ratio)


def clamped(log_ratio: A, function: Elementwise, log_ratio_limit: float, value_limit: float) -> A:
    """clip(k(clip(ℓ, ±a)), ±b): what trainers compute when they guard against overflow; biased."""
    xp = namespace(log_ratio)
    return xp.clip(function(xp.clip(log_ratio, -log_ratio_limit, log_ratio_limit)), -value_limit, value_limit)
