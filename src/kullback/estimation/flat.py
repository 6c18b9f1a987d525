"""Sums over sequences that lie end to end: what most estimates are, without padding and in a few passes.

For everything at the level of tokens in which nothing is infinite, on-policy or weighted. What is left takes the
padded way, `Recipe.summarise`; both give the same summary to rounding. A token on-policy costs a tenth of what it
costs there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.extremes import Extremes
from kullback.estimation.moments import Keys, KeyedMoments, Moments
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import CHECK, CHECK_LIMIT, DENOMINATOR, NUMERATOR, Recipe
from kullback.estimation.rows import Rows, largest_part
from kullback.estimation.summary import GROUP_CELLS, ROW_CELLS, Oddities, Summary
from kullback.estimation.tails import Tail, TailBuffer
from kullback.estimation.tokens import NotFlatError, Tokens
from kullback.estimators import Estimator, divergences
from kullback.estimators.controls import RATIO, Control

BLOCK = 1 << 15
"""Tokens worked on at a time: 256 kB of float64, which the second cache holds; with 64k a token costs a tenth more."""

PARALLEL = 1 << 19
"""Tokens from which two threads pay: NumPy lets go of the interpreter in loops of that kind."""

VALUES: Mapping[Callable[..., object], Callable[[Tokens], Float64]] = {
    divergences.k1: lambda tokens: tokens.log_ratio,
    divergences.k2: lambda tokens: 0.5 * tokens.x * tokens.x,
    divergences.k3: lambda tokens: tokens.gap,
    divergences.pearson_chi2: lambda tokens: tokens.excess * tokens.excess,
}
"""Of each token, by what is at hand already; other estimators are applied to its log-ratio."""

SUMS: Mapping[Callable[..., object], Callable[[Tokens], Float64]] = {
    divergences.k1: lambda tokens: -tokens.x_sums,
    divergences.k3: lambda tokens: tokens.gap_sums,
}
"""Of each sequence where all weights are 1, by what is at hand already."""


@dataclass(frozen=True)
class Sums:
    """Of consecutive sequences.

    Attributes:
        rows: the columns of the moments, by recipe, each (rows, columns).
        whole, log_weight: the weight of each, (rows,), and its log before it was tamed.
        weight: Σ_t of the weights of each, (rows,).
        largest: the largest x of each, (rows,).
        equal: whether every x is 0.
        token: where the first recipe's summand is largest in each, (rows,); empty where that was not asked for.
    """

    rows: list[Float64]
    whole: Float64
    log_weight: Float64
    weight: Float64
    largest: Float64
    equal: bool
    token: np.ndarray


@dataclass(frozen=True)
class Found:
    """What one pass gave: a summary for each recipe, and the single sequences of the first."""

    summaries: list[Summary]
    singles: Rows | None


def found_in(recipes: Sequence[Recipe], ragged: Ragged, *, singles: bool = False) -> Found | None:
    """The summary of each recipe, from one pass over the numbers; None where the padded way has to be taken.

    Args:
        recipes: at least one; with weights all of them tame these alike.
        ragged: the sequences.
        singles: whether those of the first recipe are wanted one by one.
    """
    if not all(recipe.level == "token" and recipe.truncation == recipes[0].truncation for recipe in recipes):
        return None
    filled = np.flatnonzero(_counts(ragged))
    if not len(filled):
        return None
    try:
        parts, tail = _in_parts(recipes, ragged, filled, singles)
    except NotFlatError:
        return None
    sums = _joined(parts)
    if not all(np.isfinite(rows).all() for rows in sums.rows):
        return None
    keys = None if ragged.groups is None else Keys.of(ragged.groups[filled], GROUP_CELLS)
    batch = _Batch(ragged, filled, keys, tail)
    found = [_summary(recipe, rows, sums, batch) for recipe, rows in zip(recipes, sums.rows, strict=True)]
    return Found(found, _singles(sums, filled) if singles else None)


@dataclass(frozen=True)
class _Batch:
    """Sequences, those that have a counted token, the prompts of these, and the tail of x over all tokens."""

    ragged: Ragged
    filled: np.ndarray
    keys: Keys | None
    tail: Tail


def _counts(ragged: Ragged) -> np.ndarray:
    """Counted tokens of each sequence."""
    if ragged.mask is None:
        return np.diff(ragged.offsets)
    ends = np.concatenate([[0], np.cumsum(ragged.mask)])
    return np.diff(ends[ragged.offsets])


def _in_parts(
    recipes: Sequence[Recipe], ragged: Ragged, filled: np.ndarray, singles: bool
) -> tuple[list[Sums], Tail]:
    """Blocks of whole sequences, by two threads where there is much to do."""
    ends = ragged.offsets[filled + 1]
    cuts = np.searchsorted(ends, np.arange(BLOCK, ragged.tokens, BLOCK))
    cuts = np.unique(np.concatenate([[0], cuts, [len(filled)]]))
    threads = min(2, os.cpu_count() or 1) if ragged.tokens >= PARALLEL else 1
    shares = [share for share in np.array_split(np.arange(len(cuts) - 1), threads) if len(share)]

    def work(share: np.ndarray) -> tuple[list[Sums], Tail]:
        buffer, sums = TailBuffer(), []
        for i in share:
            rows = filled[cuts[i] : cuts[i + 1]]
            tokens = Tokens.of(ragged, int(rows[0]), int(rows[-1]) + 1, recipes[0].truncation)
            sums.append(_block(recipes, tokens, singles))
            buffer.add(tokens.x)
        return sums, buffer.tail()

    if len(shares) == 1:
        return work(shares[0])
    with ThreadPoolExecutor(len(shares)) as pool:
        done = list(pool.map(work, shares))
    return [sums for part, _ in done for sums in part], sum((tail for _, tail in done[1:]), done[0][1])


def _block(recipes: Sequence[Recipe], tokens: Tokens, singles: bool) -> Sums:
    """The sums of some consecutive sequences."""
    weights = tokens.weights
    ones = np.ones(len(tokens.starts))
    whole = ones if weights is None else weights.whole
    weight = tokens.length if weights is None else tokens.sums(weights.weight)
    totals: dict[Estimator, Float64] = {}
    controls: dict[Control, Float64] = {}
    rows = []
    with np.errstate(all="ignore"):
        for recipe in recipes:
            if recipe.estimator not in totals:
                totals[recipe.estimator] = _total(recipe.estimator, tokens)
            for control in recipe.columns:
                if control not in controls:
                    controls[control] = _control(control, tokens)
            rows.append(
                np.stack(
                    [
                        totals[recipe.estimator],
                        _divisor(recipe, whole, weight, tokens.length),
                        *_checked(recipe, [controls[control] for control in recipe.columns]),
                    ],
                    axis=1,
                )
            )
        token = largest_part(np.abs(_values(recipes[0].estimator, tokens)), tokens.starts) if singles else ones[:0]
    return Sums(
        rows=rows,
        whole=whole,
        log_weight=0.0 * ones if weights is None else weights.log_weight,
        weight=weight,
        largest=tokens.largest,
        equal=not tokens.largest.any() and not tokens.x_sums.any(),
        token=token,
    )


def _values(estimator: Estimator, tokens: Tokens) -> Float64:
    """What every token adds."""
    if estimator.reads == "token_kl":
        assert tokens.token_kl is not None
        value = np.asarray(estimator.fn(tokens.token_kl))
    else:
        shortcut = VALUES.get(estimator.fn)
        value = np.asarray(estimator.fn(tokens.log_ratio)) if shortcut is None else shortcut(tokens)
    if tokens.weights is None:
        return value
    return value * (tokens.before if estimator.reads == "token_kl" else tokens.weight)


def _total(estimator: Estimator, tokens: Tokens) -> Float64:
    """What every sequence adds."""
    shortcut = SUMS.get(estimator.fn) if tokens.weights is None and estimator.reads == "log_ratio" else None
    return tokens.sums(_values(estimator, tokens)) if shortcut is None else shortcut(tokens)


def _control(control: Control, tokens: Tokens) -> Float64:
    """The sum of a control over every sequence."""
    if control != RATIO:
        return tokens.sums(control.fn(tokens))
    # Σ(r − 1) of what is no digit longer than its parts: e^x − 1 = gap + x.
    if tokens.weights is None:
        found = tokens.gap_sums + tokens.x_sums
        return found if tokens.mass is None else found + tokens.sums(1.0 - tokens.mass)
    weight, before = tokens.weight, tokens.before
    return tokens.sums(weight * tokens.excess + (weight - (before if tokens.mass is None else before * tokens.mass)))


def _checked(recipe: Recipe, controls: list[Float64]) -> list[Float64]:
    if CHECK in recipe.fitted:
        return controls
    return [np.clip(controls[0], -CHECK_LIMIT, CHECK_LIMIT), *controls[1:]]


def _divisor(recipe: Recipe, whole: Float64, weight: Float64, length: Float64) -> Float64:
    if recipe.unit == "sequence":
        return whole if recipe.self_normalised else np.ones_like(whole)
    return whole * length if recipe.self_normalised else weight


def _joined(parts: Sequence[Sums]) -> Sums:
    def together(arrays: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(arrays))

    return Sums(
        rows=[together(rows) for rows in zip(*(part.rows for part in parts), strict=True)],
        whole=together(part.whole for part in parts),
        log_weight=together(part.log_weight for part in parts),
        weight=together(part.weight for part in parts),
        largest=together(part.largest for part in parts),
        equal=all(part.equal for part in parts),
        token=together(part.token for part in parts),
    )


def _singles(sums: Sums, filled: np.ndarray) -> Rows:
    rows = sums.rows[0]
    return Rows(
        number=filled,
        token=sums.token,
        summand=rows[:, NUMERATOR],
        weight=sums.weight,
        check=np.clip(rows[:, CHECK], -CHECK_LIMIT, CHECK_LIMIT),
        log_weight=sums.log_weight,
    )


def _summary(recipe: Recipe, rows: Float64, sums: Sums, batch: _Batch) -> Summary:
    """What `Recipe.summarise` gives of rows all of which are finite."""
    divided = rows[rows[:, DENOMINATOR] > 0]
    scaled = divided[:, NUMERATOR] / divided[:, DENOMINATOR]
    return Summary(
        rows=len(rows),
        empty=len(batch.ragged) - len(rows),
        infinite=0,
        cells=Moments.of(np.arange(len(rows)) % ROW_CELLS, rows, ROW_CELLS),
        prompts=None if batch.keys is None else KeyedMoments.at(batch.keys, rows),
        ratios=batch.tail,
        weights=Tail.of(sums.log_weight),
        summands=Tail.of(_log(rows[:, NUMERATOR])),
        weight_sums=(float(sums.whole.sum()), float((sums.whole**2).sum())),
        mismatches=Oddities(),
        overflows=Oddities(),
        **_extremes(recipe, rows, sums, batch),
        span=(float(scaled.min(initial=np.inf)), float(scaled.max(initial=-np.inf))),
        equal=sums.equal,
    )


def _extremes(recipe: Recipe, rows: Float64, sums: Sums, batch: _Batch) -> dict[str, Extremes]:
    """The sequences that move the estimate most, as `Recipe` names them; a few alone are looked at again."""

    def unlikely(chosen: np.ndarray) -> Float64:
        few = batch.ragged.few(batch.filled[chosen])
        return np.where(few.mask, -few.log_ratio(), -np.inf)

    def parts(chosen: np.ndarray) -> Float64:
        return recipe.parts(batch.ragged.few(batch.filled[chosen]))

    size, odd = rows[:, NUMERATOR], rows[:, CHECK]
    heavy = sums.log_weight if sums.log_weight.any() else np.full(len(rows), np.nan)
    kinds = {
        "highest": (size, parts),
        "lowest": (-size, parts),
        "unlikeliest": (sums.largest, unlikely),
        "heaviest": (heavy, parts),
        "oddest": (np.abs(odd), unlikely),
    }
    return {name: Extremes.of(of, tokens, batch.filled, rows) for name, (of, tokens) in kinds.items()}


def _log(values: Float64) -> Float64:
    return np.log(values, out=np.full_like(values, -np.inf), where=values > 0)
