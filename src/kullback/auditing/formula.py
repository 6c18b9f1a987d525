"""What a function does with one token's log-ratio: its formula, its clamps, and its rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kullback.arrays import Array, Float64
from kullback.auditing.probes import FLOAT64, Probe, calls
from kullback.auditing.subject.arrays import CallFailed
from kullback.estimators import divergences
from kullback.families import Family

FLOAT32_MAX = 3.4e38


@dataclass(frozen=True)
class Kernel:
    """A formula that KL code is made of: a function of ℓ = log q − log p, and r = exp(−ℓ)."""

    name: str
    formula: str
    fn: Callable[[Array], Array]
    nonnegative: bool = False


def _upside_down(log_ratio: Array) -> Array:
    return divergences.k3(-log_ratio)


def _weighted(log_ratio: Array) -> Array:
    return np.exp(log_ratio) * log_ratio


KERNELS = Family(
    (
        Kernel("k1", "ℓ", divergences.k1),
        Kernel("k2", "½ℓ²", divergences.k2, True),
        Kernel("k3", "r − 1 + ℓ", divergences.k3, True),
        Kernel("abs", "|ℓ|", np.abs, True),
        Kernel("k3_upside_down", "1/r − 1 − ℓ", _upside_down, True),
        Kernel("forward_k1", "−rℓ", divergences.forward_k1),
        Kernel("forward_k3", "1 − r − rℓ", divergences.forward_k3, True),
        Kernel("weighted_k1", "ℓ/r", _weighted),
        Kernel("pearson_chi2", "(r − 1)²", divergences.pearson_chi2, True),
        Kernel("neyman_chi2", "(r − 1)²/r", divergences.neyman_chi2, True),
        Kernel("jeffreys", "(1 − r)ℓ", divergences.jeffreys, True),
        Kernel("squared_hellinger", "½(√r − 1)²", divergences.squared_hellinger, True),
        Kernel("jensen_shannon", "½[r log(2r/(1+r)) + log(2/(1+r))]", divergences.jensen_shannon, True),
        Kernel("total_variation", "(1 − r)₊", divergences.total_variation, True),
        Kernel("total_variation_abs", "½|r − 1|", divergences.total_variation_abs, True),
    )
)


@dataclass(frozen=True)
class Form:
    """What one token's log-ratio becomes.

    Attributes:
        kernel: the formula it follows around 0, or None.
        scale: how many times.
        weighted_by: "policy" or "reference" where it is multiplied by the token's own probability.
        at_zero: what it is where the models agree.
        clamp_below, clamp_above: log-ratios beyond which it no longer follows its formula; ±inf where it does.
        flat_below, flat_above: whether its derivative is 0 there.
        floor, ceiling: what it is there.
    """

    kernel: Kernel | None
    scale: float
    weighted_by: str
    at_zero: float
    clamp_below: float = -np.inf
    clamp_above: float = np.inf
    flat_below: bool = False
    flat_above: bool = False
    floor: float = np.nan
    ceiling: float = np.nan

    @property
    def clamped(self) -> bool:
        """Whether it leaves its formula for a constant."""
        return bool(np.isfinite([self.clamp_below, self.clamp_above]).any())

    def exact(self, log_ratio: Float64) -> Float64 | None:
        """Its formula in float64, clamps and all; None where the formula is not known."""
        if self.kernel is None or self.weighted_by:
            return None
        with np.errstate(all="ignore"):
            value = self.scale * np.asarray(self.kernel.fn(log_ratio))
        value = np.where(log_ratio < self.clamp_below, self.floor, value)
        return np.where(log_ratio > self.clamp_above, self.ceiling, value)


def form(probe: Probe, tolerance: float) -> Form | None:
    """Find a function's form, or None where it does not take single tokens."""
    if not probe.possible or not calls(probe):
        return None
    try:
        return _form(probe, max(1e-7, 10 * tolerance))
    except CallFailed:
        return None


def _form(probe: Probe, tolerance: float) -> Form:
    grid = np.concatenate([np.linspace(-1.5, -0.1, 8), np.linspace(0.1, 1.5, 8)])
    zero = float(probe.ratio(np.array([0.0]), -1.0)[0][0])
    here, there = probe.ratio(grid, -1.0)[0], probe.ratio(grid, -1.7)[0]
    weighted_by, shifted = "", here
    if not np.allclose(here, there, rtol=1e-5, atol=1e-8):
        q, p = np.minimum(grid, 0.0) - 1.0, np.minimum(-grid, 0.0) - 1.0
        for owner, logprob in (("policy", q), ("reference", p)):
            shifted = here / np.exp(logprob)
            if np.allclose(shifted, there / np.exp(logprob - 0.7), rtol=1e-5, atol=1e-8):
                weighted_by = owner
                break
        else:
            return Form(None, 1.0, "", zero)
    kernel, scale = _match(grid, shifted - (0.0 if weighted_by else zero), tolerance)
    if kernel is None or weighted_by:
        return Form(kernel, scale, weighted_by, zero)
    return _with_clamps(probe, Form(kernel, scale, "", zero), tolerance)


def _match(grid: Float64, got: Float64, tolerance: float) -> tuple[Kernel | None, float]:
    for kernel in KERNELS:
        want = np.asarray(kernel.fn(grid))
        scale = float(got @ want / (want @ want))
        if abs(scale) > 1e-9 and np.allclose(got, scale * want, rtol=100 * tolerance, atol=tolerance):
            return kernel, round(scale, 9) if tolerance < 1e-5 else round(scale, 4)
    return None, 1.0


def _with_clamps(probe: Probe, found: Form, tolerance: float) -> Form:
    def off(grid: Float64) -> tuple[Any, Float64, Float64]:
        got, slope = probe.ratio(grid)
        want = found.exact(grid)
        assert want is not None
        with np.errstate(all="ignore"):
            return ~np.isclose(got - found.at_zero, want, rtol=max(1e-4, tolerance), atol=1e-6), got, slope

    grid = np.arange(-60.0, 60.25, 0.25)
    wrong, got, slope = off(grid)
    facts: dict[str, float | bool] = {}
    for side, end, sign in (("below", 0, -1), ("above", -1, 1)):
        beyond = wrong & (sign * grid > 0)
        if not wrong[end]:
            continue
        first = sign * np.abs(grid[beyond]).min()
        fine = first - sign * np.arange(0.0, 0.26, 0.01)
        first = sign * np.abs(fine[off(fine)[0]]).min()
        facts[f"clamp_{side}"] = round(float(first), 2)
        facts[f"flat_{side}"] = bool((slope[sign * grid > abs(first) + 0.3] == 0).all())
        facts["floor" if side == "below" else "ceiling"] = float(got[end])
    return replace(found, **facts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Numerics:
    """How far rounding takes a function from its formula; log-ratios in nats, nan where it does not happen.

    Attributes:
        lost_below: |ℓ| below which the float32 value is off by more than 1%.
        error_at_milli: the relative error of the float32 value at |ℓ| = 0.001.
        overflow: the smallest |ℓ| at which float32 gives inf or nan though the number itself fits.
        nan_gradient: the smallest |ℓ| at which the float32 derivative is nan or infinite though it fits.
        negative_at: an |ℓ| at which float32 rounds something that is never negative below zero.
        bfloat16_error: the largest relative error of bfloat16 for 0.01 ≤ |ℓ| ≤ 8.
        bfloat16_failed: why bfloat16 could not be computed.
        arithmetic: relative error of the function's own arithmetic on float64 inputs.
    """

    lost_below: float = np.nan
    error_at_milli: float = np.nan
    overflow: float = np.nan
    nan_gradient: float = np.nan
    negative_at: float = np.nan
    bfloat16_error: float = np.nan
    bfloat16_failed: str = ""
    arithmetic: float = FLOAT64


def numerics(probe: Probe, found: Form | None, arithmetic: float) -> Numerics:
    """Run the function on single tokens in float32 and bfloat16."""
    if found is None:
        return Numerics(arithmetic=arithmetic)
    single = Probe(probe.subject, probe.separable, "float32")
    facts: dict[str, float | str] = {"arithmetic": arithmetic}
    try:
        facts |= _near_zero(single, found)
        facts |= _far(single, found)
    except CallFailed:
        pass
    try:
        facts["bfloat16_error"] = _half(Probe(probe.subject, probe.separable, "bfloat16"), found)
    except CallFailed as failed:
        facts["bfloat16_failed"] = failed.message
    return Numerics(**facts)  # type: ignore[arg-type]


def _near_zero(single: Probe, found: Form) -> dict[str, float]:
    sizes = 10.0 ** np.linspace(-8, -0.5, 76)
    grid = np.concatenate([sizes, -sizes]).astype(np.float32).astype(np.float64)
    want = found.exact(grid)
    got = single.ratio(grid)[0] - found.at_zero
    facts: dict[str, float] = {}
    if want is None:
        return facts
    with np.errstate(all="ignore"):
        error = np.where(want == 0, 0.0, np.abs(got - want) / np.abs(want))
    if (error > 0.01).any():
        facts["lost_below"] = float(np.abs(grid[error > 0.01]).max())
    facts["error_at_milli"] = float(error[np.abs(np.abs(grid) - 1e-3) < 2e-4].max())
    wrong = (got < 0) & (want >= 0)
    if found.kernel is not None and found.kernel.nonnegative and found.scale > 0 and wrong.any():
        facts["negative_at"] = float(np.abs(grid[wrong]).max())
    return facts


def _far(single: Probe, found: Form) -> dict[str, float]:
    sizes = np.concatenate([np.arange(1.0, 120.0, 1.0), [150.0, 200.0, 400.0, 1000.0]])
    grid = np.concatenate([sizes, -sizes])
    got, slope = single.ratio(grid)
    want = found.exact(grid)
    # A small coefficient does not make an overflow of the formula itself avoidable.
    fits = np.abs(grid) < 80 if want is None else np.abs(want) < FLOAT32_MAX / 2 * min(1.0, abs(found.scale))
    facts: dict[str, float] = {}
    if (bad := fits & ~np.isfinite(got)).any():
        facts["overflow"] = float(np.abs(grid[bad]).min())
    if (bad := fits & ~np.isfinite(slope)).any():
        facts["nan_gradient"] = float(np.abs(grid[bad]).min())
    return facts


def _half(half: Probe, found: Form) -> float:
    import torch

    sizes = torch.tensor(np.geomspace(0.01, 8.0, 24)).bfloat16().double().numpy()
    grid = np.concatenate([sizes, -sizes])
    want = found.exact(grid)
    got = half.ratio(grid)[0] - found.at_zero
    if want is None:
        return float("nan")
    seen = np.abs(want) > 0
    return float(np.max(np.abs(got - want)[seen] / np.abs(want)[seen]))
