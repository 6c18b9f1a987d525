"""From sums to a number with its error: coefficients are fitted, a ratio of means is taken and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError
from kullback.estimation.doubts import doubts
from kullback.estimation.moments import Moments
from kullback.estimation.recipe import DENOMINATOR, NUMERATOR, Recipe
from kullback.estimation.residuals import Residuals
from kullback.estimation.result import Estimate, GivenPrompts
from kullback.estimation.strata import Spread, spread_of_strata
from kullback.estimation.summary import Summary
from kullback.estimators import Estimator, Link

RIDGE_ROWS = 60.0
"""What a fit is held to 0 by, in sequences for each unit of 1 + γ², γ the skewness of the control.

By Pearson's inequality its mean square, which the coefficient is divided by, is known from no more than n/(1 + γ²)
sequences: a ratio p/q whose large values are rare is hardly seen, and the coefficient comes out too large.
Unregularised, the mean squared error at 8 rows of an ordinary world is 25 times that of no fit. With 30 sequences
whatever the skewness it is 1.5 times at 64 and 256 rows of a world whose log-ratios are spread by 1.5 nats, with this
at most 1.05 times in 20 random worlds. Where one event in 200 carries the control it is not enough (`make bench
ARGS=fits`, the crossed world)."""

ROUNDING = 1e-5
"""Size of a control beside the summand below which it is rounding of float32 log-probs and says nothing."""

NAMED = 5
"""Sequences that an estimate names as those that move it most."""


def conclusion(recipe: Recipe, summary: Summary) -> Estimate:
    """What the sequences of a summary say.

    Raises:
        InputError: there is none, or every importance weight is 0.
    """
    if summary.rows == 0:
        raise InputError("no sequence was added yet: call update(batch) before result()")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is said in words
        return _concluded(recipe, summary)


def value_of(recipe: Recipe, summary: Summary) -> float:
    """The value alone, as `conclusion` gives it.

    Raises:
        InputError: as `conclusion`.
    """
    if recipe.fitted or recipe.estimator.link is not None or not summary.rows:
        return conclusion(recipe, summary).value
    if summary.infinite:
        return float("inf")
    cells = summary.independent
    with np.errstate(over="ignore", invalid="ignore"):
        return _ratio(*_parts(cells, _directions(cells, [], np.zeros((len(cells.count), 0)))))


def _concluded(recipe: Recipe, summary: Summary) -> Estimate:
    estimator, clusters = recipe.estimator, summary.clusters
    mean, given = _means(recipe, summary)
    residuals = _residuals(recipe, summary, mean.value) if np.isfinite(mean.value) and not summary.infinite else None
    first, second = summary.weight_sums
    found = Estimate(
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
        nonnegative=estimator.nonnegative,
        given_prompts=given,
        influential=() if residuals is None else residuals.influences()[:NAMED],
    )
    apart = None if residuals is None else residuals.apart()
    return replace(found, warnings=tuple(doubts(recipe, summary, found, apart)))


@dataclass(frozen=True)
class _Mean:
    value: float
    stderr: float
    skewness: float


def _means(recipe: Recipe, summary: Summary) -> tuple[_Mean, GivenPrompts | None]:
    """The value with its error for prompts drawn from a population, and its error for these prompts."""
    if summary.infinite:
        return _Mean(float("inf"), float("inf"), 0.0), None
    cells, columns = summary.independent, recipe.fitted
    # Coefficients that see their own cell would bias the value: plug-in λ* is off by more than 0.05 nats with three
    # sequences in tests/test_estimate.py, where leaving the cell out is exact.
    left_out = _fitted(cells.leave_one_out() if columns else cells, columns)
    direction = _directions(cells, columns, left_out)
    mean = _ratio_of_means(cells, direction, summary.clusters, by_cell=summary.grouped)
    spread = _spread_given_prompts(summary, direction, mean.value)
    link = recipe.estimator.link
    given = None if spread is None else _given(mean.value, spread, recipe.estimator)
    if _tells_nothing(recipe, summary):
        mean = replace(mean, stderr=float("nan"))
        given = None
    return mean if link is None else _linked(mean, link), given


def _tells_nothing(recipe: Recipe, summary: Summary) -> bool:
    """Whether every draw gave one and the same number other than 0, which says nothing of what was not drawn."""
    low, high = summary.span
    alike = summary.rows > 1 and high - low <= 1e-9 * max(abs(low), abs(high))
    return alike and recipe.estimator.reads == "log_ratio" and not summary.equal


def _spread_given_prompts(summary: Summary, direction: Float64, value: float) -> Spread | None:
    """The spread of the ratio when only samples, not prompts, are drawn anew; None where that cannot be known."""
    prompts = summary.prompts
    if prompts is None or prompts.hashed:
        return None
    cells = prompts.cells.nonempty()
    if not summary.grouped:  # one prompt: the direction is by cells of rows, whose coefficients differ by 1/n
        direction = np.repeat(direction.mean(axis=0, keepdims=True), len(cells.count), axis=0)
    residual = direction.copy()
    residual[:, DENOMINATOR] -= value
    return spread_of_strata(cells, residual)


def _given(value: float, spread: Spread, estimator: Estimator) -> GivenPrompts:
    link = estimator.link
    slope = 1.0 if link is None else link.derivative(value)
    return GivenPrompts(
        value=value if link is None else link.function(value),
        stderr=abs(slope) * spread.stderr,
        skewness=float(np.sign(slope)) * spread.skewness,
        n=spread.rows,
        freedom=spread.freedom,
        nonnegative=estimator.nonnegative,
    )


def _coefficients(recipe: Recipe, summary: Summary) -> dict[str, float]:
    """Of the controls, by name, from the whole batch; 0 where the value is infinite."""
    fitted = np.zeros(len(recipe.fitted))
    if not summary.infinite:
        fitted = _fitted(summary.together, recipe.fitted)[0]
    controls = recipe.estimator.controls
    return {control.name: value for control, value in zip(controls, fitted.tolist(), strict=True)}


def _residuals(recipe: Recipe, summary: Summary, value: float) -> Residuals:
    """The sequences that may move the value most, with what each adds beyond its share."""
    total = summary.together
    direction = _directions(total, recipe.fitted, _fitted(total, recipe.fitted))
    direction[:, DENOMINATOR] -= value
    squares = float(total.along(direction)[1][0])
    divisor = float(total.count[0] * total.mean[0, DENOMINATOR])
    return Residuals.of([summary.highest, summary.lowest], direction[0], squares, divisor, summary.rows)


def _largest_khat(summary: Summary) -> float:
    khats = [tail.khat() for tail in (summary.ratios, summary.weights, summary.summands)]
    return max((khat for khat in khats if not np.isnan(khat)), default=float("nan"))


def _fitted(table: Moments, columns: list[int]) -> Float64:
    """Coefficients (cells, controls) that minimise the variance of numerator − R·denominator + c·controls.

    The controls' means are known to be zero, so their moments are taken about zero. A ridge, for each control its own,
    holds what few sequences say to no correction at all.
    """
    if not columns:
        return np.zeros((len(table.count), 0))
    mean, comoment = table.mean, table.comoment
    divisor = mean[:, DENOMINATOR]
    ratio = np.divide(mean[:, NUMERATOR], divisor, out=np.zeros_like(divisor), where=divisor > 0)
    covariance = comoment[:, NUMERATOR, columns] - ratio[:, None] * comoment[:, DENOMINATOR, columns]
    h = mean[:, columns]
    second = comoment[:, columns][:, :, columns] + table.count[:, None, None] * h[:, :, None] * h[:, None, :]
    scale = np.sqrt(np.diagonal(second, axis1=1, axis2=2))
    # A control that is rounding beside the summand has a mean of rounding too, which a coefficient of 1e5 would add.
    size = np.sqrt(comoment[:, NUMERATOR, NUMERATOR] + table.count * mean[:, NUMERATOR] ** 2)
    counts = scale > ROUNDING * size[:, None]
    scale = np.where(scale > 0, scale, 1.0)
    # Scaled to a correlation first: the ridge is then in sequences, whatever the controls' units.
    correlation = second / (scale[:, :, None] * scale[:, None, :])
    ridge = _ridge(table, columns, scale)[:, None, :] * np.eye(len(columns))
    weights = np.linalg.solve(correlation + ridge, covariance[:, :, None] / scale[:, :, None])[:, :, 0]
    return np.where(counts, -weights / scale, 0.0)


def _ridge(table: Moments, columns: list[int], scale: Float64) -> Float64:
    """RIDGE_ROWS·(1 + γ²)/n of every control, (cells, controls), γ its skewness about zero and scale its √Σh²."""
    n, h = np.maximum(table.count, 1.0)[:, None], table.mean[:, columns]
    cubes = table.third[:, columns, columns, columns] + 3 * h * table.comoment[:, columns, columns] + n * h**3
    return np.asarray(RIDGE_ROWS * (1.0 / n + (cubes / scale**3) ** 2))


def _directions(cells: Moments, columns: list[int], coefficients: Float64) -> Float64:
    """numerator + c·controls as a direction for each cell."""
    direction = np.zeros_like(cells.mean)
    direction[:, NUMERATOR] = 1.0
    direction[:, columns] = coefficients
    return direction


def _ratio_of_means(cells: Moments, direction: Float64, clusters: int, *, by_cell: bool) -> _Mean:
    """R = Σ direction·z / Σ denominator with its error, over rows or over whole cells."""
    top, bottom = _parts(cells, direction)
    value, total = _ratio(top, bottom), float(bottom.sum())
    if by_cell or clusters == len(cells.count):
        return _Mean(value, *jackknifed(top, bottom, value))
    residual = direction.copy()
    residual[:, DENOMINATOR] -= value
    _, second, third = cells.along(residual)
    squares, cubes = max(float(second.sum()), 0.0), float(third.sum())
    skewness = cubes / clusters / (squares / clusters) ** 1.5 if squares > 0 else 0.0
    return _Mean(value, (squares * clusters / max(clusters - 1, 1)) ** 0.5 / total, skewness)


def _parts(cells: Moments, direction: Float64) -> tuple[Float64, Float64]:
    """Of each cell, Σ direction·z and Σ denominator."""
    return cells.count * np.sum(direction * cells.mean, axis=1), cells.count * cells.mean[:, DENOMINATOR]


def _ratio(top: Float64, bottom: Float64) -> float:
    total = float(bottom.sum())
    if total <= 0:
        raise InputError("every importance weight is 0: the policy excludes all that the behaviour policy drew")
    return float(top.sum()) / total


def jackknifed(top: Float64, bottom: Float64, value: float) -> tuple[float, float]:
    """The error of value = Σ top / Σ bottom from what it is without each cluster, and the clusters' skewness.

    With equal divisors it is the usual error of a mean. With 8 rows of unequal lengths the delta method gives 0.79 to
    0.94 of the true error of a ratio.
    """
    clusters, rest = len(top), bottom.sum() - bottom
    if clusters < 2 or not (rest > 0).all():
        return float("nan"), 0.0
    # value − without = (top − value·bottom)/rest, written so that nothing cancels.
    pseudo = (clusters - 1) * (top - value * bottom) / rest
    pseudo -= pseudo.mean()
    variance = float(np.mean(pseudo**2))
    skewness = float(np.mean(pseudo**3)) / variance**1.5 if variance > 0 else 0.0
    return (variance / (clusters - 1)) ** 0.5, skewness


def _linked(mean: _Mean, link: Link) -> _Mean:
    slope = link.derivative(mean.value)
    return _Mean(link.function(mean.value), abs(slope) * mean.stderr, mean.skewness * np.sign(slope))
