"""From sums to a number with its error: coefficients are fitted, a ratio of means is taken and judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError
from kullback.estimation.doubts import doubts
from kullback.estimation.moments import Moments
from kullback.estimation.recipe import DENOMINATOR, NUMERATOR, Recipe
from kullback.estimation.result import Estimate
from kullback.estimation.summary import Summary
from kullback.estimators import Link


def conclusion(recipe: Recipe, summary: Summary) -> Estimate:
    """What the sequences of a summary say.

    Raises:
        InputError: there is none, or every importance weight is 0.
    """
    if summary.rows == 0:
        raise InputError("no sequence was added yet: call update(batch) before result()")
    estimator, clusters = recipe.estimator, summary.clusters
    mean = _mean(recipe, summary)
    first, second = summary.weight_sums
    return Estimate(
        value=mean.value,
        stderr=mean.stderr if clusters > 1 else float("nan"),
        skewness=mean.skewness,
        n=summary.rows,
        ess=first**2 / second if second > 0 else 0.0,
        khat=_largest_khat(summary),
        clusters=clusters,
        estimator=estimator.name,
        level=recipe.level,
        unit=recipe.unit,
        coefficients=_coefficients(recipe, summary),
        warnings=tuple(doubts(recipe, summary)),
        nonnegative=estimator.nonnegative,
    )


@dataclass(frozen=True)
class _Mean:
    value: float
    stderr: float
    skewness: float


def _mean(recipe: Recipe, summary: Summary) -> _Mean:
    if summary.infinite:
        return _Mean(float("inf"), float("inf"), 0.0)
    cells, columns = summary.independent, recipe.fitted
    # Coefficients that see their own cell would bias the value: plug-in λ* is off by more than 0.05 nats with three
    # sequences in tests/test_estimate.py, where leaving the cell out is exact.
    left_out = _fitted(cells.leave_one_out(), columns) if columns else np.zeros((len(cells.count), 0))
    direction = _directions(cells, columns, left_out)
    mean = _ratio_of_means(cells, direction, summary.clusters, by_cell=summary.grouped)
    return mean if recipe.estimator.link is None else _linked(mean, recipe.estimator.link)


def _coefficients(recipe: Recipe, summary: Summary) -> dict[str, float]:
    """Of the controls, by name, from the whole batch; 0 where the value is infinite."""
    fitted = np.zeros(len(recipe.fitted))
    if not summary.infinite:
        fitted = _fitted(summary.independent.total(), recipe.fitted)[0]
    controls = recipe.estimator.controls
    return {control.name: value for control, value in zip(controls, fitted.tolist(), strict=True)}


def _largest_khat(summary: Summary) -> float:
    khats = [tail.khat() for tail in (summary.ratios, summary.weights, summary.summands)]
    return max((khat for khat in khats if not np.isnan(khat)), default=float("nan"))


def _fitted(table: Moments, columns: list[int]) -> Float64:
    """Coefficients (cells, controls) that minimise the variance of numerator − R·denominator + c·controls.

    The controls' means are known to be zero, so their second moments are taken about zero.
    """
    mean, comoment = table.mean, table.comoment
    divisor = mean[:, DENOMINATOR]
    ratio = np.divide(mean[:, NUMERATOR], divisor, out=np.zeros_like(divisor), where=divisor > 0)
    covariance = comoment[:, NUMERATOR, columns] - ratio[:, None] * comoment[:, DENOMINATOR, columns]
    h = mean[:, columns]
    second = comoment[:, columns][:, :, columns] + table.count[:, None, None] * h[:, :, None] * h[:, None, :]
    scale = np.sqrt(np.diagonal(second, axis1=1, axis2=2))
    scale = np.where(scale > 0, scale, 1.0)
    # Scaled to a correlation first: the cut-off of pinv is then about collinearity, not about units.
    correlation = second / (scale[:, :, None] * scale[:, None, :])
    inverse = np.linalg.pinv(correlation, rcond=1e-10, hermitian=True)
    return np.asarray(-np.einsum("cij,cj->ci", inverse, covariance / scale) / scale)


def _directions(cells: Moments, columns: list[int], coefficients: Float64) -> Float64:
    """numerator + c·controls as a direction for each cell."""
    direction = np.zeros_like(cells.mean)
    direction[:, NUMERATOR] = 1.0
    direction[:, columns] = coefficients
    return direction


def _ratio_of_means(cells: Moments, direction: Float64, clusters: int, *, by_cell: bool) -> _Mean:
    """R = Σ direction·z / Σ denominator with its delta-method error, over rows or over whole cells."""
    total = float(np.sum(cells.count * cells.mean[:, DENOMINATOR]))
    if total <= 0:
        raise InputError("every importance weight is 0: the policy excludes all that the behaviour policy drew")
    value = float(np.sum(cells.count * np.sum(direction * cells.mean, axis=1))) / total
    residual = direction.copy()
    residual[:, DENOMINATOR] -= value
    first, second, third = cells.along(residual)
    if by_cell:
        second, third = first**2, first**3
    squares, cubes = max(float(second.sum()), 0.0), float(third.sum())
    skewness = cubes / clusters / (squares / clusters) ** 1.5 if squares > 0 else 0.0
    return _Mean(value, (squares * clusters / max(clusters - 1, 1)) ** 0.5 / total, skewness)


def _linked(mean: _Mean, link: Link) -> _Mean:
    slope = link.derivative(mean.value)
    return _Mean(link.function(mean.value), abs(slope) * mean.stderr, mean.skewness * np.sign(slope))
