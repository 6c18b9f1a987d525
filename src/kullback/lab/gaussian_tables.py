"""Two Gaussians, where every estimator's bias and variance has a closed form: Schulman's tables, for any pair.

With q = N(0, 1) and p = N(μ, σ²) the log-ratio of x ~ q is a polynomial, ℓ = c + bx + dx² with
c = log σ + μ²/2σ², b = −μ/σ² and d = (1/σ² − 1)/2, so the moments of k1 and k2 are those of x. The ratio
r = p/q has E_q[r²] = ∫p²/q, finite where σ² < 2 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import erf, log, sqrt

import numpy as np
from numpy.polynomial import polynomial

from kullback.arrays import Float64
from kullback.documents import Chart, Document, Number, Panel, Series, Table
from kullback.errors import InputError, shown
from kullback.estimators.divergences import k1, k2, k3
from kullback.lab.cells import Columns, Fixed, Unbounded, table_of
from kullback.lab.outcome import ExperimentOutcome

NAMES = ("k1", "k2", "k3", "k1 + λ*(r − 1)")

PUBLISHED = {
    (0.1, "k1"): (0.0, 20.0),
    (0.1, "k2"): (0.002, 1.42),
    (0.1, "k3"): (0.0, 1.42),
    (1.0, "k1"): (0.0, 2.0),
    (1.0, "k2"): (0.25, 1.73),
    (1.0, "k3"): (0.0, 1.7),
}
"""Bias and standard deviation over the true KL as printed in Schulman 2020, σ = 1, by shift and estimator."""


@dataclass(frozen=True)
class GaussianRow:
    """One estimator on one pair; everything over the true KL, of one sample.

    Attributes:
        bias, stdev: by closed form; stdev is inf where the variance does not exist.
        sampled_bias, sampled_bias_stderr, sampled_stdev: from samples.
        published: what Schulman printed, (bias, stdev).
    """

    estimator: str
    bias: float
    stdev: float
    sampled_bias: float
    sampled_bias_stderr: float
    sampled_stdev: float
    published: tuple[float, float] | None = None


@dataclass(frozen=True)
class GaussianPair:
    """q = N(0, 1) against p = N(shift, scale²).

    Attributes:
        kl, forward_kl: KL(q‖p) and KL(p‖q), nats.
        chi2: χ²(p‖q) = Var_q(r); inf where scale² ≥ 2.
        coefficient: λ* = J/χ², at which k1 + λ(r − 1) has the least variance.
        negative: probability that k1 is below 0.
        rows: the estimators.
    """

    shift: float
    scale: float
    kl: float
    forward_kl: float
    chi2: float
    coefficient: float
    negative: float
    rows: tuple[GaussianRow, ...] = ()


@dataclass(frozen=True)
class Gaussian(ExperimentOutcome):
    """What `gaussian` found.

    Attributes:
        samples: draws behind the sampled columns.
        pairs: one for each shift.
        crossovers: by estimator, the KL above which its variance exceeds k1's as the shift grows at this
            scale; None where it never does or always does.

    Example:
        >>> from kullback import lab
        >>> found = lab.gaussian([1.0], scale=2.0, samples=10)
        >>> found.pairs[0].chi2, found.crossovers["k3"]
        (inf, None)
        >>> print(found.document().tables[0].rows[2][4])  # standard deviation of k3
        ∞
    """

    scale: float
    samples: int
    pairs: tuple[GaussianPair, ...]
    crossovers: dict[str, float | None] = field(default_factory=dict)

    def document(self) -> Document:
        """A table for each pair; standard deviation and bias over KL, and the standard deviation over the scale."""
        return Document("Estimators on two Gaussians", (*(_table(self, pair) for pair in self.pairs), _chart(self)))


def gaussian(
    shifts: Sequence[float] = (0.1, 1.0), *, scale: float = 1.0, samples: int = 1_000_000, seed: int = 0
) -> Gaussian:
    """Bias and standard deviation of k1, k2, k3 and k1 + λ*(r − 1) on Gaussians, by closed form and by sampling.

    q = N(0, 1) is the policy, p = N(shift, scale²) the reference. The defaults are the two tables of Schulman
    2020. For N(a, b²) against N(c, d²) in general, take shift (c − a)/b and scale d/b.

    Args:
        shifts: μ, one table each.
        scale: σ > 0. Where σ² ≥ 2 the ratio has no variance, nor has k3, and λ* = 0.
        samples: draws behind the sampled columns.
        seed: of the draws.

    Raises:
        InputError: a scale that is not positive, no shift, q = p, or fewer than two samples.

    Reference: Schulman 2020, “Approximating KL Divergence”.

    Example:
        >>> from kullback import lab
        >>> near, apart = lab.gaussian(samples=1000).pairs
        >>> [(row.estimator, round(row.bias, 4), round(row.stdev, 2)) for row in near.rows[:3]]
        [('k1', 0.0, 20.0), ('k2', 0.0025, 1.42), ('k3', 0.0, 1.42)]
        >>> {name: round(at, 3) for name, at in lab.gaussian(samples=10).crossovers.items()}
        {'k2': 0.618, 'k3': 0.628}
    """
    if not scale > 0 or not shifts or samples < 2:
        raise InputError(
            f"scale={shown(scale)}, {len(shifts)} shift(s) and samples={samples} came, but a scale is positive, and at "
            "least one shift and two samples are needed"
        )
    if scale == 1 and 0 in shifts:
        raise InputError("shift=0 and scale=1 came: the two Gaussians are the same, and nothing is relative to a KL 0")
    draws = np.random.default_rng(seed).standard_normal(samples)
    pairs = tuple(_with_rows(_pair(shift, scale), draws) for shift in shifts)
    return Gaussian(scale, samples, pairs, {name: crossover(name, scale) for name in ("k2", "k3")})


def stdev(pair: GaussianPair, name: str) -> float:
    """Standard deviation of one sample over the true KL, by closed form."""
    return sqrt(max(_variance(pair, name), 0.0)) / pair.kl


def crossover(name: str, scale: float = 1.0) -> float | None:
    """KL above which Var(k2) or Var(k3) exceeds Var(k1) as the shift grows, by root finding on the closed forms."""
    from scipy.optimize import brentq

    def excess(shift: float) -> float:
        pair = _pair(shift, scale)
        return _variance(pair, name) / _variance(pair, "k1") - 1.0

    grid = np.geomspace(0.03, 6.0, 80)
    signs = [excess(float(shift)) < 0 for shift in grid]
    for low, high, before, after in zip(grid, grid[1:], signs, signs[1:], strict=False):
        if before and not after:
            return _pair(float(brentq(excess, low, high, xtol=1e-14)), scale).kl
    return None


def _pair(shift: float, scale: float) -> GaussianPair:
    a = 1.0 / scale**2
    kl = 0.5 * (a * (1.0 + shift**2) - 1.0 - log(a))
    forward = 0.5 * (scale**2 + shift**2 - 1.0 + log(a))
    chi2 = float("inf")
    if 2 * a > 1:
        factor = a / sqrt(2 * a - 1)
        with np.errstate(over="ignore"):  # close to σ² = 2 it is finite and beyond what a float holds
            chi2 = factor * float(np.expm1(a * shift**2 / (2 * a - 1))) + factor - 1.0
    coefficient = (kl + forward) / chi2 if 0 < chi2 < np.inf else 0.0
    return GaussianPair(
        shift=shift,
        scale=scale,
        kl=kl,
        forward_kl=forward,
        chi2=chi2,
        coefficient=coefficient,
        negative=_negative(shift, scale),
    )


def _log_ratio(shift: float, scale: float) -> Float64:
    """Coefficients of ℓ as a polynomial in x."""
    a = 1.0 / scale**2
    return np.array([log(scale) + 0.5 * a * shift**2, -a * shift, 0.5 * (a - 1.0)])


def _square(coefficients: Float64) -> Float64:
    return np.convolve(coefficients, coefficients)


def _expectation(coefficients: Float64) -> float:
    """E of a polynomial of x ~ N(0, 1): its even moments are 1, 1, 3, 15, 105, …"""
    moments = np.zeros(len(coefficients))
    moments[0] = 1.0
    for order in range(2, len(moments), 2):
        moments[order] = moments[order - 2] * (order - 1)
    return float(coefficients @ moments)


def _variance(pair: GaussianPair, name: str) -> float:
    line = _log_ratio(pair.shift, pair.scale)
    first = line[1] ** 2 + 2 * line[2] ** 2
    if name == "k1":
        return float(first)
    if name == "k2":
        square = 0.5 * _square(line)
        return _expectation(_square(square)) - _expectation(square) ** 2
    jeffreys = pair.kl + pair.forward_kl
    if name == "k3":
        return float(first + pair.chi2 - 2 * jeffreys)
    return float(first - pair.coefficient * jeffreys)


def _bias(pair: GaussianPair, name: str) -> float:
    if name != "k2":
        return 0.0
    line = _log_ratio(pair.shift, pair.scale)
    return _expectation(0.5 * _square(line)) / pair.kl - 1.0


def _negative(shift: float, scale: float) -> float:
    """P(ℓ < 0): x between or beyond the roots of ℓ."""
    line = _log_ratio(shift, scale)
    if line[2] == 0:
        return _below(-abs(shift) / 2)
    low, high = sorted(float(np.real(root)) for root in polynomial.polyroots(line))
    between = _below(high) - _below(low)
    return between if line[2] > 0 else 1.0 - between


def _below(x: float) -> float:
    return 0.5 * (1.0 + erf(x / sqrt(2.0)))


def _with_rows(pair: GaussianPair, draws: Float64) -> GaussianPair:
    log_ratio: Float64 = np.asarray(polynomial.polyval(draws, _log_ratio(pair.shift, pair.scale)), dtype=np.float64)

    def best(x: Float64) -> Float64:
        return np.asarray(k1(x) + pair.coefficient * np.expm1(-x))

    functions: tuple[Callable[[Float64], Float64], ...] = (k1, k2, k3, best)
    rows = []
    for name, function in zip(NAMES, functions, strict=True):
        values = function(log_ratio) / pair.kl
        spread = float(np.std(values, ddof=1))
        rows.append(
            GaussianRow(
                estimator=name,
                bias=_bias(pair, name),
                stdev=stdev(pair, name),
                sampled_bias=float(np.mean(values)) - 1.0,
                sampled_bias_stderr=spread / sqrt(len(values)),
                sampled_stdev=spread,
                published=PUBLISHED.get((pair.shift, name)) if pair.scale == 1 else None,
            )
        )
    return replace(pair, rows=tuple(rows))


def _table(found: Gaussian, pair: GaussianPair) -> Table:
    chi2 = "infinite: k3 has no variance" if np.isinf(pair.chi2) else f"{pair.chi2:.4g}"
    return table_of(
        pair.rows,
        COLUMNS,
        title=f"q = N(0, 1), p = N({pair.shift:g}, {pair.scale:g}²): KL(q‖p) = {pair.kl:.4g} nats",
        note=(
            f"KL(p‖q) {pair.forward_kl:.4g}, χ²(p‖q) {chi2}, λ* {pair.coefficient:.4g}, "
            f"P(k1 < 0) {pair.negative:.3f}. Bias and standard deviation of one sample over the true KL; sampled: "
            f"{found.samples:,} draws. {_crossing(found)}"
        ),
        words=1,
    )


COLUMNS: Columns[GaussianRow] = {
    "estimator": lambda row: row.estimator,
    "bias": lambda row: Number(row.bias, ".4f"),
    "sampled": lambda row: Fixed(row.sampled_bias, row.sampled_bias_stderr, ".4f"),
    "printed": lambda row: "" if row.published is None else Number(row.published[0], "g"),
    "stdev": lambda row: Unbounded(row.stdev, ".4f"),
    "sampled ": lambda row: Number(row.sampled_stdev, ".4f"),
    "printed ": lambda row: "" if row.published is None else Number(row.published[1], "g"),
}


def _crossing(found: Gaussian) -> str:
    words = [f"{name} above KL {at:.3f}" for name, at in found.crossovers.items() if at is not None]
    return f"At σ = {found.scale:g} the variance exceeds k1's for " + " and ".join(words) + "." if words else ""


def _chart(found: Gaussian) -> Chart:
    return Chart(
        name="gaussian",
        text=(
            "Left: standard deviation of k1, k2, k3 and the best control variate over the true KL, and the bias of "
            f"k2 over it, against the KL at scale {found.scale:g}; dots are sampled. Right: the standard deviations "
            "against the scale of p; k3's goes to infinity at √2."
        ),
        panels=(_by_kl(found), _by_scale()),
    )


def _by_kl(found: Gaussian) -> Panel:
    pairs = [_pair(float(shift), found.scale) for shift in np.geomspace(0.05, 2.5, 60)]
    kls = np.array([pair.kl for pair in pairs])
    curves = [Series(name, kls, np.array([stdev(pair, name) for pair in pairs])) for name in NAMES]
    bias = Series("bias of k2", kls, np.array([_bias(pair, "k2") for pair in pairs]), "dashed")
    drawn = [
        Series(row.estimator, np.array([pair.kl]), np.array([row.sampled_stdev]), "points")
        for pair in found.pairs
        for row in pair.rows
    ]
    at_k3 = found.crossovers["k3"]
    return Panel(
        f"scale σ = {found.scale:g}",
        "KL(q‖p), nats",
        "over the KL",
        (*curves, bias, *drawn),
        "xy",
        () if at_k3 is None else ((at_k3, f"k3 above k1 from {at_k3:.3f}"),),
    )


def _by_scale() -> Panel:
    scales = np.linspace(0.5, sqrt(2.0), 120)[:-1]
    pairs = [_pair(1.0, float(scale)) for scale in scales]
    return Panel(
        "shift μ = 1",
        "scale σ of p",
        "stdev over the KL",
        tuple(Series(name, scales, np.array([stdev(pair, name) for pair in pairs])) for name in NAMES),
        marks=((sqrt(2.0), "k3 infinite from √2"),),
        bottom=0.0,
        top=6.0,
    )
