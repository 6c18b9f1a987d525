"""What makes an estimate doubtful, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from kullback.estimation.intervals import skewed_interval
from kullback.estimation.moments import Moments
from kullback.estimation.recipe import CHECK, Recipe
from kullback.estimation.summary import Summary

HEAVY_TAIL = 0.7
"""The k̂ from which means of a ratio are not to be trusted (Vehtari et al. 2024)."""


def doubts(recipe: Recipe, summary: Summary) -> Iterator[str]:
    """A sentence for everything that is wrong with an estimate, or that limits what it says; the worst first."""
    yield from _infinities(recipe, summary)
    yield from _heavy_tails(recipe, summary)
    yield from _unsampled(recipe, summary)
    yield from _limits(recipe, summary)


def _infinities(recipe: Recipe, summary: Summary) -> Iterator[str]:
    if summary.mismatches.count and summary.infinite:
        yield (
            f"support mismatch: the reference gives probability 0 to {summary.mismatches}; "
            "the policy draws what the reference excludes, so the KL is infinite"
        )
    if summary.overflows.count:
        yield (
            f"{recipe.estimator.name} overflows to inf at {summary.overflows}: "
            "the log-ratio there is beyond what exp can hold; k1 is finite on the same data"
        )


def _heavy_tails(recipe: Recipe, summary: Summary) -> Iterator[str]:
    unit = "token" if recipe.level == "token" else "sequence"
    for tail, what, advice in (
        (summary.weights, "a sequence's importance weight", "the value and its error may be far too small"),
        (summary.summands, f"a sequence's {recipe.estimator.name}", "the value and its error may be far too small"),
        (
            summary.ratios,
            f"a {unit}'s ratio p/q",
            "means of the ratio (k3, control variates) and their errors may be far too small; "
            "k1 and rao_blackwell do not average it",
        ),
    ):
        if tail.khat() >= HEAVY_TAIL:
            yield (
                f"heavy tail: {what} has k̂ = {tail.khat():.2f} ≥ {HEAVY_TAIL}, "
                f"so a few samples not seen yet may carry most of its mean: {advice}"
            )


def _unsampled(recipe: Recipe, summary: Summary) -> Iterator[str]:
    cells = summary.independent
    excess, low, high = _checked(cells.total()) if len(cells.count) else (0.0, 0.0, 0.0)
    if not low <= 0.0 <= high:
        what = "Σ_t(r_t − 1)" if recipe.level == "token" else "r − 1"
        yield (
            f"{what}, r = p/q, averages {excess:.3g} a sequence where 0 is expected: part of what the reference does "
            "was never sampled, or the log-probs are not those of the distribution that was sampled"
        )


def _limits(recipe: Recipe, summary: Summary) -> Iterator[str]:
    if recipe.truncation is not None and summary.weight_sums[1] != summary.weight_sums[0]:
        yield f"{recipe.truncation.name}: {recipe.truncation.bias}"
    if summary.prompts is not None and not summary.grouped:
        yield "all rows have one prompt: the error is over its samples and says nothing of other prompts"
    if summary.rows == 1:
        yield "one sequence: no standard error can be given"
    if summary.empty:
        yield f"{summary.empty} row(s) without a counted token were left out"


def _checked(total: Moments) -> tuple[float, float, float]:
    """The mean of r − 1 a sequence and its 99.9% interval, which should hold 0.

    No clustering: whatever the prompt, the mean is 0.
    """
    n, mean = float(total.count[0]), float(total.mean[0, CHECK])
    second, third = float(total.comoment[0, CHECK, CHECK]), float(total.third[0, CHECK, CHECK, CHECK])
    if n < 2 or not second > 0:
        return mean, mean, mean
    skewness = third / n / (second / n) ** 1.5
    return mean, *skewed_interval(mean, (second / (n - 1) / n) ** 0.5, skewness, int(n), level=0.999)
