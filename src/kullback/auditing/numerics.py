"""How far rounding takes a function from its formula, one token at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kullback.auditing.formula import Form
from kullback.auditing.probes import FLOAT64, Probe
from kullback.auditing.subject.failures import CallFailed

FLOAT32_MAX = 3.4e38


@dataclass(frozen=True)
class Numerics:
    """Log-ratios in nats at which rounding shows, nan where it does not.

    Attributes:
        lost_below: |ℓ| below which the float32 value is off by more than 1%.
        error_at_milli: the relative error of the float32 value at |ℓ| = 0.001.
        overflow: the smallest |ℓ| at which float32 gives inf or nan though the number itself fits.
        nan_gradient: the smallest |ℓ| at which the float32 derivative is nan or infinite though it fits.
        negative_at: an |ℓ| at which float32 rounds something that is never negative below zero.
        bfloat16_error: the largest relative error of bfloat16 for 0.01 ≤ |ℓ| ≤ 8.
        bfloat16_failed: why bfloat16 could not be computed.
        arithmetic: relative error of the function's own arithmetic on float64 inputs.
        half_error: what the function's own half precision does to its result, relative; 0 where it has none.
        swallowed: what float32 gives where the formula itself is beyond its range: 0, a large number or nan, and not
            inf; as "0", "3.4e+38" or "nan"; empty where it is inf.
        swallowed_from: the smallest |ℓ| at which it does.
        excluded_words: whether two words that both models exclude change the result of whole distributions.
        step: the steps in which the result moves, where it is rounded to few digits; 0 where it is not.
        zero_keeps: whether with a coefficient of 0 one far token still makes the result nan or infinite.
    """

    lost_below: float = np.nan
    error_at_milli: float = np.nan
    overflow: float = np.nan
    nan_gradient: float = np.nan
    negative_at: float = np.nan
    bfloat16_error: float = np.nan
    bfloat16_failed: str = ""
    arithmetic: float = FLOAT64
    half_error: float = 0.0
    swallowed: str = ""
    swallowed_from: float = np.nan
    excluded_words: bool | None = None
    zero_keeps: bool = False
    step: float = 0.0


def numerics(probe: Probe, found: Form | None, arithmetic: float) -> Numerics:
    """The function on single tokens in float32 and bfloat16, against its formula in float64."""
    seen = Numerics(arithmetic=arithmetic)
    if found is None:
        return seen
    single, half = replace(probe, dtype="float32"), replace(probe, dtype="bfloat16")
    try:
        seen = _near_zero(single, found, seen)
        seen = _far(single, found, seen)
    except CallFailed:
        pass
    try:
        return replace(seen, bfloat16_error=_half_precision_error(half, found))
    except CallFailed as failed:
        return replace(seen, bfloat16_failed=failed.message)


def _near_zero(single: Probe, found: Form, seen: Numerics) -> Numerics:
    sizes = 10.0 ** np.linspace(-8, -0.5, 31 if single.subject.kind == "scalar" else 76)
    grid = np.concatenate([sizes, -sizes]).astype(np.float32).astype(np.float64)
    want = found.exact(grid)
    got = single.ratio(grid)[0] - found.at_zero
    if want is None:
        return seen
    with np.errstate(all="ignore"):
        error = np.where(want == 0, 0.0, np.abs(got - want) / np.abs(want))
    nonnegative = found.formula is not None and found.formula.nonnegative and found.scale > 0
    return replace(
        seen,
        lost_below=_largest(grid, error > 0.01),
        error_at_milli=float(error[np.abs(np.log10(np.abs(grid)) + 3) < 0.13].max()),
        negative_at=_largest(grid, (got < 0) & (want >= 0)) if nonnegative else np.nan,
    )


def _far(single: Probe, found: Form, seen: Numerics) -> Numerics:
    step = 4.0 if single.subject.kind == "scalar" else 1.0
    sizes = np.concatenate([np.arange(1.0, 120.0, step), [150.0, 200.0, 400.0, 1000.0]])
    grid = np.concatenate([sizes, -sizes])
    got, slope = single.ratio(grid)
    want = found.exact(grid)
    # A small coefficient does not make an overflow of the formula itself avoidable.
    fits = np.abs(grid) < 80 if want is None else np.abs(want) < FLOAT32_MAX / 2 * min(1.0, abs(found.scale))
    beyond = np.zeros(grid.shape, dtype=bool) if want is None else np.abs(want) > 2 * FLOAT32_MAX
    swallowed = beyond & ~np.isinf(got)
    where = int(np.argmin(np.where(swallowed, np.abs(grid), np.inf)))
    return replace(
        seen,
        swallowed=f"{got[where]:.2g}" if swallowed.any() else "",
        swallowed_from=_smallest(grid, swallowed),
        overflow=_smallest(grid, fits & ~np.isfinite(got)),
        nan_gradient=_smallest(grid, fits & ~np.isfinite(slope)),
    )


def _largest(grid: np.ndarray, where: np.ndarray) -> float:
    """The largest |ℓ| of some; nan of none."""
    return float(np.abs(grid[where]).max()) if where.any() else np.nan


def _smallest(grid: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(grid[where]).min()) if where.any() else np.nan


def _half_precision_error(half: Probe, found: Form) -> float:
    import torch

    sizes = torch.tensor(np.geomspace(0.01, 8.0, 24)).bfloat16().double().numpy()
    grid = np.concatenate([sizes, -sizes])
    want = found.exact(grid)
    got = half.ratio(grid)[0] - found.at_zero
    if want is None:
        return np.nan
    seen = np.abs(want) > 0
    return float(np.max(np.abs(got - want)[seen] / np.abs(want)[seen]))
