"""The spread of a sum when every prompt is kept and only its samples are drawn anew: each prompt is a stratum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.moments import Moments
from kullback.estimation.recipe import DENOMINATOR


@dataclass(frozen=True)
class Spread:
    """Of a ratio: its standard error, the skewness of its summands, their number, and the degrees of freedom."""

    stderr: float
    skewness: float
    rows: int
    freedom: float


def spread_of_strata(cells: Moments, residual: Float64) -> Spread | None:
    """√(Σ_g n_g/(n_g − 1) Σ_i (e_gi − ē_g)²)/D, e = residual·z, one cell a prompt; None with one sample a prompt.

    Degrees of freedom by Satterthwaite; the third cumulant is the sum of the strata's. Prompts with one sample, where
    there are others, are put together into one stratum, which can only make the error larger.

    Reference: Cochran 1977, “Sampling Techniques”, sections 5.4 and 5.12 (collapsed strata).
    """
    if not (cells.count > 1).any():
        return None
    count, second, third = _central_sums(cells, residual)
    several = count > 1
    n, squares, cubes = count[several], second[several], third[several]
    variances = n / (n - 1) * squares
    cumulants = np.where(n > 2, n**2 / np.maximum((n - 1) * (n - 2), 1.0) * cubes, 0.0)
    rows = float(count.sum())
    # One prompt that has one sample while all others have several: its part is taken to be like theirs.
    total = float(variances.sum()) * rows / float(n.sum())
    divisor = float(np.sum(cells.count * cells.mean[:, DENOMINATOR]))
    if not total > 0:
        return Spread(0.0, 0.0, int(rows), float(np.sum(n - 1)))
    freedom = total**2 / float(np.sum(variances**2 / (n - 1)))
    # The summands' skewness is what gives this third cumulant to a sum of so many of them.
    skewness = float(cumulants.sum()) / total**1.5 * rows**0.5
    return Spread(total**0.5 / divisor, skewness, int(rows), freedom)


def _central_sums(cells: Moments, residual: Float64) -> tuple[Float64, Float64, Float64]:
    """Rows, Σ(e − ē)² and Σ(e − ē)³ of every stratum; prompts with one row are one stratum at the end."""
    second = np.einsum("cij,ci,cj->c", cells.comoment, residual, residual)
    third = np.einsum("cijk,ci,cj,ck->c", cells.third, residual, residual, residual)
    alone = cells.count == 1
    if not alone.any():
        return cells.count, np.maximum(second, 0.0), third
    single = np.sum(residual[alone] * cells.mean[alone], axis=1)
    off = single - single.mean()
    return (
        np.append(cells.count[~alone], float(single.size)),
        np.append(np.maximum(second[~alone], 0.0), float(np.sum(off**2))),
        np.append(third[~alone], float(np.sum(off**3))),
    )
