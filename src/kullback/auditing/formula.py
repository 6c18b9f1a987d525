"""What a function does with one token's log-ratio: which formula it follows, how many times, and up to which clamps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kullback.arrays import A, Elementwise, Float64, namespace
from kullback.auditing.probes import HALF, Probe
from kullback.auditing.subject.failures import CallFailed
from kullback.estimators import ESTIMATORS, Estimator, divergences
from kullback.families import Family

Owner = Literal["", "policy", "reference"]


@dataclass(frozen=True)
class Formula:
    """A formula that KL code is made of.

    Attributes:
        name: what reports call it.
        text: how it is written, with ℓ = log q − log p and r = exp(−ℓ).
        fn: the function of ℓ.
        nonnegative: whether it is never below 0.
    """

    name: str
    text: str
    fn: Elementwise
    nonnegative: bool


def _absolute(log_ratio: A) -> A:
    """|ℓ|."""
    return namespace(log_ratio).abs(log_ratio)


def _k3_upside_down(log_ratio: A) -> A:
    """1/r − 1 − ℓ."""
    return divergences.k3(-log_ratio)


def _weighted_k1(log_ratio: A) -> A:
    """ℓ/r."""
    return namespace(log_ratio).exp(log_ratio) * log_ratio


IN_LOG_RATIOS = {"k3": "r − 1 + ℓ", "forward_k1": "−rℓ", "forward_k3": "1 − r − rℓ", "jeffreys": "(1 − r)ℓ"}
"""How reports write the formulas whose documentation has log r or exp(−ℓ) instead."""


def _written(estimator: Estimator) -> str:
    """An estimator's formula without what its documentation says of it."""
    text = estimator.formula
    for end in (". ", ": ", " = ", " ≥ ", " ≤ ", " ∈ "):
        text = text.partition(end)[0]
    return IN_LOG_RATIOS.get(estimator.name, text)


def _of_one_log_ratio(estimator: Estimator) -> bool:
    return estimator.reads == "log_ratio" and not estimator.controls and estimator.link is None


FORMULAS: Family[Formula] = Family(
    (
        *(Formula(e.name, _written(e), e.fn, e.nonnegative) for e in ESTIMATORS if _of_one_log_ratio(e)),
        Formula("abs", "|ℓ|", _absolute, nonnegative=True),
        Formula("k3_upside_down", "1/r − 1 − ℓ", _k3_upside_down, nonnegative=True),
        Formula("weighted_k1", "ℓ/r", _weighted_k1, nonnegative=False),
    )
)
"""The estimators of the family that are functions of one log-ratio, and what code is found to compute instead."""


@dataclass(frozen=True)
class Clamp:
    """Where a function leaves its formula on one side of 0.

    Attributes:
        at: the log-ratio from which on it does; ±inf where it never does.
        flat: whether its derivative is 0 there.
        value: what it is there.
    """

    at: float
    flat: bool = False
    value: float = np.nan


@dataclass(frozen=True)
class Form:
    """What one token's log-ratio becomes.

    Attributes:
        formula: what it follows around 0, or None.
        scale: how many times.
        weighted_by: "policy" or "reference" where it is multiplied by the token's own probability.
        at_zero: what it is where the models agree.
        below, above: where it leaves its formula for negative and for positive log-ratios.
    """

    formula: Formula | None
    scale: float
    weighted_by: Owner
    at_zero: float
    below: Clamp = Clamp(-np.inf)
    above: Clamp = Clamp(np.inf)

    @property
    def floor(self) -> float:
        """What it is below its clamp; nan without one."""
        return self.below.value

    @property
    def ceiling(self) -> float:
        """What it is above its clamp; nan without one."""
        return self.above.value

    @property
    def clamped(self) -> bool:
        """Whether it leaves its formula for a constant."""
        return bool(np.isfinite([self.below.at, self.above.at]).any())

    def exact(self, log_ratio: Float64) -> Float64 | None:
        """Its formula in float64, clamps and all; None where the formula is not known."""
        if self.formula is None or self.weighted_by:
            return None
        with np.errstate(all="ignore"):
            value = self.scale * np.asarray(self.formula.fn(log_ratio))
        value = np.where(log_ratio < self.below.at, self.below.value, value)
        return np.where(log_ratio > self.above.at, self.above.value, value)


def form(probe: Probe, tolerance: float) -> Form | None:
    """A function's form, or None where it does not take single tokens."""
    if not probe.works or tolerance >= HALF:
        return None
    try:
        return _form(probe, max(1e-7, 10 * tolerance))
    except CallFailed:
        return None


def _form(probe: Probe, tolerance: float) -> Form:
    # Near 0, so that a clamp at 1 nat is a clamp and not another formula.
    grid = np.concatenate([np.linspace(-0.8, -0.1, 8), np.linspace(0.1, 0.8, 8)])
    zero = float(probe.ratio(np.array([0.0]), -1.0)[0][0])
    here, there = probe.ratio(grid, -1.0)[0], probe.ratio(grid, -1.7)[0]
    if np.allclose(here, there, rtol=1e-5, atol=1e-8):
        formula, scale = _match(grid, here - zero, tolerance)
        found = Form(formula, scale, "", zero)
        if formula is None:
            found = _narrow(probe, zero, tolerance) or _one_sided(grid, here, zero, tolerance) or found
        return found if found.formula is None else _with_clamps(probe, found, tolerance)
    # A token's own probability falls by exp(−0.7) from here to there, and what it multiplies with it.
    for owner, logprob in _logprobs(grid):
        alone = here / np.exp(logprob)
        if np.allclose(alone, there / np.exp(logprob - 0.7), rtol=1e-5, atol=1e-8):
            formula, scale = _match(grid, alone, tolerance)
            return Form(formula, scale, owner, zero)
    return Form(None, 1.0, "", zero)


def _narrow(probe: Probe, zero: float, tolerance: float) -> Form | None:
    """The form next to 0, of what is clamped soon."""
    grid = np.concatenate([np.linspace(-0.08, -0.01, 8), np.linspace(0.01, 0.08, 8)])
    formula, scale = _match(grid, probe.ratio(grid, -1.0)[0] - zero, tolerance)
    return None if formula is None else Form(formula, scale, "", zero)


def _one_sided(grid: Float64, got: Float64, zero: float, tolerance: float) -> Form | None:
    """The form on one side of 0, of what is constant on the other: a clamp at 0."""
    for side, constant in ((grid > 0, got[grid < 0]), (grid < 0, got[grid > 0])):
        formula, scale = _match(grid[side], got[side] - zero, tolerance)
        if formula is None or not np.allclose(constant, constant[0], rtol=1e-7, atol=1e-12):
            continue
        clamp = Clamp(0.0, flat=True, value=float(constant[0]) - zero)
        return Form(formula, scale, "", zero, **{"below" if grid[side][0] > 0 else "above": clamp})
    return None


def _logprobs(grid: Float64) -> tuple[tuple[Owner, Float64], ...]:
    """Log-probs of both models where the likelier one is −1."""
    return ("policy", np.minimum(grid, 0.0) - 1.0), ("reference", np.minimum(-grid, 0.0) - 1.0)


def _match(grid: Float64, got: Float64, tolerance: float) -> tuple[Formula | None, float]:
    if not np.isfinite(got).all():
        return None, 1.0
    for formula in FORMULAS:
        want = np.asarray(formula.fn(grid))
        if not (size := float(want @ want)) > 0:
            continue
        scale = float(got @ want) / size
        if abs(scale) > 1e-9 and np.allclose(got, scale * want, rtol=100 * tolerance, atol=tolerance):
            return formula, round(scale, 9) if tolerance < 1e-5 else round(scale, 4)
    return None, 1.0


@dataclass(frozen=True)
class _Off:
    """Where on a grid of log-ratios a function is off its formula, with its values and its slopes."""

    grid: Float64
    wrong: np.ndarray
    values: Float64
    slopes: Float64

    @classmethod
    def of(cls, probe: Probe, found: Form, grid: Float64, tolerance: float) -> _Off:
        # Of tokens as the formula was found on: what depends on their probability is no clamp.
        values, slopes = probe.ratio(grid, -1.0)
        want = found.exact(grid)
        if want is None:
            return cls(grid, np.zeros(grid.shape, dtype=bool), values, slopes)
        with np.errstate(all="ignore"):
            wrong = ~np.isclose(values - found.at_zero, want, rtol=max(1e-4, tolerance), atol=1e-6)
        return cls(grid, wrong, values, slopes)

    def nearest(self, sign: int) -> float:
        """The log-ratio nearest to 0, on one side of it, that is off."""
        return sign * float(np.abs(self.grid[self.wrong & (sign * self.grid > 0)]).min())


def _with_clamps(probe: Probe, found: Form, tolerance: float) -> Form:
    # One number for a batch is had row by row, and costs a call for each.
    step = 1.0 if probe.subject.kind == "scalar" else 0.25
    coarse = _Off.of(probe, found, np.arange(-60.0, 60.0 + step, step), tolerance)

    def clamp(sign: int, end: int, otherwise: Clamp) -> Clamp:
        if not coarse.wrong[end]:
            return otherwise
        first, width = coarse.nearest(sign), step
        while width > 0.01:
            grid = first - sign * np.linspace(0.0, width, 6 if width > 0.05 else 1 + round(width / 0.01))
            fine = _Off.of(probe, found, grid, tolerance)
            if not (fine.wrong & (sign * grid > 0)).any():
                break  # It depends on how many rows there are.
            first, width = fine.nearest(sign), width / 5
        beyond = coarse.slopes[sign * coarse.grid > abs(first) + 0.3]
        return Clamp(round(first, 2), bool((beyond == 0).all()), float(coarse.values[end]))

    return replace(found, below=clamp(-1, 0, found.below), above=clamp(1, -1, found.above))
