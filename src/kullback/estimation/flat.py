"""Sums over sequences that lie end to end: what most estimates are, without padding and in a few passes.

For the estimators of a token's log-ratio, on-policy, with nothing infinite. Everything else takes the padded way,
`Recipe.summarise`; both give the same summary to rounding. A token costs 10 ns here and 150 ns there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import factorial

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.extremes import Extremes
from kullback.estimation.moments import KeyedMoments, Moments
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import CHECK, DENOMINATOR, NUMERATOR, Recipe
from kullback.estimation.summary import GROUP_CELLS, ROW_CELLS, Oddities, Summary
from kullback.estimation.tails import KEPT, Tail
from kullback.estimators import divergences

BLOCK = 1 << 15
"""Tokens worked on at a time: 256 kB of float64, which the second cache holds; with 64k a token costs a tenth more."""

PARALLEL = 1 << 19
"""Tokens from which two threads pay: NumPy lets go of the interpreter in loops of that kind."""

RADIUS = 0.5
"""Ratios up to e^±½ are summed by the series; the few beyond one at a time."""

LARGEST = 700.0
"""Beyond it exp overflows, which has words of its own."""

SUMMED: dict[Callable[..., object], Callable[[Float64, Float64, Float64], Float64]] = {
    divergences.k1: lambda x, gap, starts: -np.add.reduceat(x, starts),
    divergences.k2: lambda x, gap, starts: 0.5 * np.add.reduceat(x * x, starts),
    divergences.k3: lambda x, gap, starts: np.add.reduceat(gap, starts),
}
"""Sums over each sequence, from x = −ℓ and e^x − 1 − x, of estimators that need no pass of their own."""


class NotFlatError(Exception):
    """Something infinite, which the padded way has words for."""


@dataclass(frozen=True)
class Sums:
    """What is found of consecutive sequences: (recipes, rows, columns), the largest x of each row, the tail of x."""

    rows: Float64
    largest: Float64
    tail: Tail


def summaries(recipes: Sequence[Recipe], ragged: Ragged) -> list[Summary] | None:
    """The summary of each recipe, from one pass over the numbers; None where the padded way has to be taken."""
    if ragged.behavior_logprobs is not None or not all(map(_is_flat, recipes)):
        return None
    counts = _counts(ragged)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return None
    try:
        found = _joined(_in_parts(recipes, ragged, filled))
    except NotFlatError:
        return None
    if not np.isfinite(found.rows).all():
        return None
    return [_summary(recipe, rows, found, ragged, filled) for recipe, rows in zip(recipes, found.rows, strict=True)]


def _is_flat(recipe: Recipe) -> bool:
    return recipe.level == "token" and recipe.truncation is None and not recipe.needs_token_kl


def _counts(ragged: Ragged) -> np.ndarray:
    """Counted tokens of each sequence."""
    if ragged.mask is None:
        return np.diff(ragged.offsets)
    ends = np.concatenate([[0], np.cumsum(ragged.mask)])
    return np.diff(ends[ragged.offsets])


def _in_parts(recipes: Sequence[Recipe], ragged: Ragged, filled: np.ndarray) -> list[Sums]:
    """Blocks of whole sequences, by two threads where there is much to do."""
    ends = ragged.offsets[filled + 1]
    cuts = np.searchsorted(ends, np.arange(BLOCK, ragged.tokens, BLOCK))
    cuts = np.unique(np.concatenate([[0], cuts, [len(filled)]]))
    threads = min(2, os.cpu_count() or 1) if ragged.tokens >= PARALLEL else 1
    shares = [share for share in np.array_split(np.arange(len(cuts) - 1), threads) if len(share)]

    def work(share: np.ndarray) -> list[Sums]:
        floor, found = -np.inf, []
        for i in share:
            found.append(_block(recipes, ragged, filled[cuts[i] : cuts[i + 1]], floor))
            floor = max(floor, _floor(found[-1].tail))
        return found

    if len(shares) == 1:
        return work(shares[0])
    with ThreadPoolExecutor(len(shares)) as pool:
        return [sums for part in pool.map(work, shares) for sums in part]


def _floor(tail: Tail) -> float:
    """Below it nothing comes into a tail that holds these."""
    return float(tail.largest.min()) if len(tail.largest) == KEPT else -np.inf


def _block(recipes: Sequence[Recipe], ragged: Ragged, rows: np.ndarray, floor: float) -> Sums:
    """The sums of some consecutive sequences."""
    x, starts, mass = _counted(ragged, int(rows[0]), int(rows[-1]) + 1)
    low, high = float(x.min()), float(x.max())
    if not (-np.inf < low and high < LARGEST):
        raise NotFlatError
    gap = exp_gap(x, max(high, -low))
    # Σ(r − 1) of what is no digit longer than its parts: e^x − 1 = gap + x.
    check = np.add.reduceat(gap, starts) + np.add.reduceat(x, starts)
    if mass is not None:
        check = check + np.add.reduceat(1.0 - mass, starts)
    lengths = np.diff(np.append(starts, len(x))).astype(np.float64)
    columns = []
    for recipe in recipes:
        divisor = np.ones(len(rows)) if recipe.unit == "sequence" else lengths
        columns.append(np.stack([_total(recipe, x, gap, starts), divisor, check], axis=1))
    above = x[x > floor] if floor > -np.inf else x
    tail = Tail(len(x), Tail.of(above).largest)
    return Sums(np.stack(columns), np.maximum.reduceat(x, starts), tail)


def _total(recipe: Recipe, x: Float64, gap: Float64, starts: np.ndarray) -> Float64:
    shortcut = SUMMED.get(recipe.estimator.fn)
    if shortcut is not None:
        return shortcut(x, gap, starts)
    with np.errstate(all="ignore"):
        return np.asarray(np.add.reduceat(np.asarray(recipe.estimator.fn(-x)), starts))


def _counted(ragged: Ragged, low: int, high: int) -> tuple[Float64, np.ndarray, Float64 | None]:
    """x = log p − log q of the counted tokens, where each sequence that has one begins, and the reference's mass."""
    part = slice(int(ragged.offsets[low]), int(ragged.offsets[high]))
    q, p = ragged.logprobs[part], ragged.ref_logprobs[part]
    mass = None if ragged.ref_mass is None else ragged.ref_mass[part]
    ends = ragged.offsets[low : high + 1] - ragged.offsets[low]
    if ragged.mask is not None:
        counts = ragged.mask[part]
        q, p, mass = q[counts], p[counts], None if mass is None else mass[counts]
        ends = np.concatenate([[0], np.cumsum(counts)])[ends]
    starts = ends[:-1][np.diff(ends) > 0]
    x = np.subtract(p, q, dtype=np.float64)
    return x, starts, None if mass is None else mass.astype(np.float64)


def exp_gap(x: Float64, largest: float) -> Float64:
    """e^x − 1 − x without cancellation, as `divergences.exp_gap`, for numbers no larger than `largest` either way.

    The series is as long as the largest number needs: 6 terms up to 0.01, 13 up to ½, beyond which few numbers are.
    """
    radius = min(largest, RADIUS)
    terms = next(k for k in range(3, 20) if radius ** (k - 1) * 2 / factorial(k + 1) < 2.0**-54)
    coefficients = [1 / factorial(k) for k in range(2, 2 + terms)]
    gap = x * coefficients[-1]
    gap += coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        gap *= x
        gap += coefficient
    gap *= x
    gap *= x
    if largest > RADIUS:
        beyond = np.flatnonzero(np.abs(x) > RADIUS)
        gap[beyond] = divergences.exp_gap(x[beyond])
    return gap


def _joined(parts: Sequence[Sums]) -> Sums:
    tail = parts[0].tail
    for part in parts[1:]:
        tail += part.tail
    return Sums(
        np.concatenate([part.rows for part in parts], axis=1), np.concatenate([part.largest for part in parts]), tail
    )


def _summary(recipe: Recipe, rows: Float64, found: Sums, ragged: Ragged, filled: np.ndarray) -> Summary:
    """What `Recipe.summarise` gives of rows all of which are finite."""
    cell = np.arange(len(rows)) % ROW_CELLS
    keys = None if ragged.groups is None else ragged.groups[filled].tolist()
    scaled = rows[:, NUMERATOR] / rows[:, DENOMINATOR]
    return Summary(
        rows=len(rows),
        empty=len(ragged) - len(rows),
        infinite=0,
        cells=Moments.of(cell, rows, ROW_CELLS),
        prompts=None if keys is None else KeyedMoments.of(keys, rows, GROUP_CELLS),
        ratios=found.tail,
        weights=Tail.of(np.zeros(len(rows))),
        summands=Tail.of(_log(rows[:, NUMERATOR])),
        weight_sums=(float(len(rows)), float(len(rows))),
        mismatches=Oddities(),
        overflows=Oddities(),
        **_extremes(recipe, rows, found, ragged, filled),
        span=(float(scaled.min()), float(scaled.max())),
        equal=not found.largest.any() and not rows[:, CHECK].any(),
    )


def _extremes(recipe: Recipe, rows: Float64, found: Sums, ragged: Ragged, filled: np.ndarray) -> dict[str, Extremes]:
    """The sequences that move the estimate most, as `Recipe` names them; a few alone are looked at again."""

    def unlikely(chosen: np.ndarray) -> Float64:
        return _rows_of(ragged, filled[chosen])

    def parts(chosen: np.ndarray) -> Float64:
        with np.errstate(all="ignore"):
            return np.abs(np.nan_to_num(np.asarray(recipe.estimator.fn(-unlikely(chosen))), nan=0.0, posinf=0.0))

    size, odd = rows[:, NUMERATOR], rows[:, CHECK]
    kinds = {
        "highest": (size, parts),
        "lowest": (-size, parts),
        "unlikeliest": (found.largest, unlikely),
        "oddest": (np.abs(odd), unlikely),
    }
    extremes = {name: Extremes.of(of, tokens, filled, rows) for name, (of, tokens) in kinds.items()}
    return {**extremes, "heaviest": Extremes.nothing(rows.shape[1])}


def _rows_of(ragged: Ragged, rows: np.ndarray) -> Float64:
    """x of the counted tokens of some sequences, (rows, time); −inf where there is none."""
    lengths = np.diff(ragged.offsets)[rows]
    found = np.full((len(rows), max(1, int(lengths.max(initial=0)))), -np.inf)
    for i, row in enumerate(rows):
        part = slice(int(ragged.offsets[row]), int(ragged.offsets[row + 1]))
        counts = True if ragged.mask is None else ragged.mask[part]
        x = ragged.ref_logprobs[part].astype(np.float64) - ragged.logprobs[part]
        found[i, : lengths[i]] = np.where(counts, x, -np.inf)
    return found


def _log(values: Float64) -> Float64:
    return np.log(values, out=np.full_like(values, -np.inf), where=values > 0)
