"""What makes an estimate doubtful, in sentences that name the rows behind it."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite, isnan

import numpy as np

from kullback.documents import Uncertain
from kullback.estimation.extremes import Extremes
from kullback.estimation.intervals import skewed_interval
from kullback.estimation.moments import Moments
from kullback.estimation.recipe import CHECK, Recipe
from kullback.estimation.residuals import Apart
from kullback.estimation.result import Estimate
from kullback.estimation.summary import Summary
from kullback.estimation.tails import FEWEST, HEAVY_TAIL, Tail

FEW_SEQUENCES = 5 * FEWEST
"""Below, a heavy tail cannot be seen, and says nothing by not being seen."""

FEW_PROMPTS = 20
"""Below, intervals cover 92% to 94% where prompts' KLs have a coefficient of variation of 1.4, and fewer where more
differ more. Prompts with unequal numbers of samples count as fewer than they are."""

ROUNDING = 1e-11
"""Root mean square of r − 1 a sequence that rounding alone may make: a sum of 10⁶ log-probs of −10 is off by 1e-12."""

MARKOV = 1000.0
"""A mean of numbers that are not negative and of which 1 is expected is as large once in a thousand times at most."""

IMMATERIAL = 0.01
"""How far from 1 a mean weight may be without a word: the value is then off by about as much. Log-probs of engines
that differ by 1e-3 a token make weights of 300 tokens average 1 + 1.5e-4."""


def doubts(recipe: Recipe, summary: Summary, found: Estimate, apart: Apart | None) -> Iterator[str]:
    """A sentence for everything that is wrong with an estimate, or that limits what it says; the worst first."""
    yield from _infinities(recipe, summary, found)
    yield from _alike(summary, found)
    yield from _apart(found, apart)
    yield from _heavy_tails(recipe, summary)
    # What makes the weights wrong makes the weighted r − 1 wrong as well: the cause is enough.
    yield from list(_misweighted(recipe, summary)) or _unsampled(recipe, summary)
    yield from _limits(recipe, summary)


def _infinities(recipe: Recipe, summary: Summary, found: Estimate) -> Iterator[str]:
    said = list(_infinite_places(recipe, summary))
    yield from said
    if not isfinite(found.value) and not said:
        yield (
            f"the value is {found.value:g}: {summary.infinite} sequence(s) have a summand that is not finite, such as "
            "a token KL of inf or a log-ratio beyond what exp can hold"
        )
    elif isfinite(found.value) and np.isinf(found.stderr):
        yield (
            f"no error can be given: the square of a summand is beyond what float64 can hold, the largest at "
            f"{summary.highest.places(1)}"
        )


def _infinite_places(recipe: Recipe, summary: Summary) -> Iterator[str]:
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
    if not isfinite(summary.weight_sums[1]):
        yield (
            f"an importance weight overflows to inf, the largest at {summary.heaviest.places()}: the log-probs of the "
            "policy and of what drew the tokens are of different tokens or models"
        )


def _alike(summary: Summary, found: Estimate) -> Iterator[str]:
    if summary.rows < 2:
        return
    if summary.equal and found.estimator != "rao_blackwell":
        yield (
            "every log-ratio is exactly 0: the two models agree on all that was drawn, or one model's log-probs were "
            "handed over twice"
        )
    elif isnan(found.stderr) and found.clusters > 1:
        yield (
            f"all {summary.rows} draws gave the same number: what was never drawn may have a probability of up to "
            f"{min(1.0, 3 / summary.rows):.2g} (95%), its part of the KL is not known, and no error can be given; "
            "the exact token KL (rao_blackwell) has none of this"
        )


def _apart(found: Estimate, apart: Apart | None) -> Iterator[str]:
    if apart is not None:
        rows = ", ".join(map(str, apart.rows))
        rest = Uncertain(found.value - apart.value_change, apart.stderr)
        yield (
            f"row(s) {rows} stand apart: without them the value is {rest}; look whether their log-probs are of the "
            "same tokens and models"
        )


def _heavy_tails(recipe: Recipe, summary: Summary) -> Iterator[str]:
    unit = "token" if recipe.level == "token" else "sequence"
    for tail, places, what, advice in (
        (
            summary.weights,
            summary.heaviest,
            "a sequence's importance weight",
            "the value and its error may be far too small",
        ),
        (
            summary.summands,
            summary.highest,
            f"a sequence's {recipe.estimator.name}",
            "the value and its error may be far too small",
        ),
        (
            summary.ratios,
            summary.unlikeliest,
            f"a {unit}'s ratio p/q",
            "means of the ratio (k3, control variates) and their errors may be far too small; "
            "k1 and rao_blackwell do not average it",
        ),
    ):
        if tail.heavy:
            yield _heavy_tail(tail, places, what, advice)


def _heavy_tail(tail: Tail, places: Extremes, what: str, advice: str) -> str:
    return (
        f"heavy tail: {what} has k̂ = {tail.khat():.2f} ≥ {HEAVY_TAIL}, "
        f"so a few samples not seen yet may carry most of its mean: {advice}; the largest: {places.places()}"
    )


def _misweighted(recipe: Recipe, summary: Summary) -> Iterator[str]:
    if recipe.truncation is not None and not recipe.truncation.self_normalised:
        return
    excess = summary.weight_excess[0] / summary.rows
    # Markov's inequality holds whatever the tail; an interval only where the weights have a variance.
    if MARKOV <= excess < inf or (not summary.weights.heavy and _is_not_1(summary)):
        yield (
            f"importance weights q/μ average {1 + excess:.3g} where 1 is expected: behavior_logprobs are not the law "
            "that drew these tokens (another temperature, top-p, model or step, or log-probs of the token before), or "
            f"part of what the policy does was never drawn; the largest: {summary.heaviest.places()}"
        )


def _unsampled(recipe: Recipe, summary: Summary) -> Iterator[str]:
    # Where the ratio has no variance its mean can be anywhere, and the heavy tail has been said.
    if not len(summary.independent.count) or summary.ratios.heavy:
        return
    excess, low, high = _checked(summary.together)
    if not low <= 0.0 <= high:
        what = "Σ_t(r_t − 1)" if recipe.level == "token" else "r − 1"
        yield (
            f"{what}, r = p/q, averages {excess:.3g} a sequence where 0 is expected: part of what the reference does "
            "was never sampled, or the log-probs are not those of the distribution that was sampled; "
            f"furthest from 0: {summary.oddest.places()}"
        )


def _limits(recipe: Recipe, summary: Summary) -> Iterator[str]:
    if recipe.truncation is not None and summary.weight_sums[1] != summary.weight_sums[0]:
        yield f"{recipe.truncation.name}: {recipe.truncation.bias}"
    if summary.prompts is not None and not summary.grouped:
        yield "all rows have one prompt: the error is over its samples and says nothing of other prompts"
    if summary.rows == 1:
        yield "one sequence: no standard error can be given"
    elif summary.rows < FEW_SEQUENCES:
        yield (
            f"the error rests on {summary.rows} sequences: fewer than {FEW_SEQUENCES} show no heavy tail, and the "
            "interval may cover less than it says"
        )
    if summary.grouped and (worth := summary.worth) < FEW_PROMPTS:
        unequal = "" if worth > summary.clusters - 0.5 else f", worth {worth:.0f} by their unequal numbers of samples"
        yield (
            f"the error rests on {summary.clusters} prompts{unequal}: where prompts differ much, fewer than "
            f"{FEW_PROMPTS} say little of others, and the interval may cover less than it says"
        )
    if summary.empty:
        yield f"{summary.empty} row(s) without a counted token were left out"


def _checked(total: Moments) -> tuple[float, float, float]:
    """The mean of r − 1 a sequence and its 99.9% interval, which should hold 0; 0 where there is no telling."""
    n, mean = float(total.count[0]), float(total.mean[0, CHECK])
    return _interval(n, mean, float(total.comoment[0, CHECK, CHECK]), float(total.third[0, CHECK, CHECK, CHECK]))


def _is_not_1(summary: Summary) -> bool:
    """Whether the mean of the weights is off by more than is immaterial, and 1 is outside its 99.9% interval."""
    n, (first, second, third) = summary.rows, summary.weight_excess
    mean = first / n
    _, low, high = _interval(n, mean, second - n * mean**2, third - 3 * mean * second + 2 * n * mean**3)
    return abs(mean) > IMMATERIAL and not low <= 0.0 <= high


def _interval(n: float, mean: float, second: float, third: float) -> tuple[float, float, float]:
    """A mean and its 99.9% interval from n and sums of squares and cubes about it; 0 where there is no telling.

    No clustering: whatever the prompt, the mean should be 0.
    """
    # Tokens that the reference itself drew have r = 1: what is left is rounding, and none of it has mean 0.
    if n < 2 or not mean**2 + second / n >= ROUNDING**2:
        return 0.0, 0.0, 0.0
    if not second > ROUNDING * n * mean**2:
        return mean, mean, mean
    skewness = third / n / (second / n) ** 1.5
    return mean, *skewed_interval(mean, (second / (n - 1) / n) ** 0.5, skewness, int(n), level=0.999)
