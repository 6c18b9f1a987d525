"""Sums over sequences that lie end to end: what most estimates are, without padding and in a few passes.

For everything at the level of tokens in which nothing is infinite, on-policy or weighted. What is left takes the
padded way, `Recipe.summarise`; both give the same summary to rounding. A token on-policy costs a tenth of what it
costs there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from kullback.arrays import Float64
from kullback.estimation import fused
from kullback.estimation.extremes import Extremes, largest_of
from kullback.estimation.fused import WeightedSums
from kullback.estimation.moments import KeyedMoments, Keys, Moments
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import CHECK, CHECK_LIMIT, DENOMINATOR, NUMERATOR, Recipe
from kullback.estimation.rows import Rows, largest_part
from kullback.estimation.summary import EXTREMES, GROUP_CELLS, ROW_CELLS, Oddities, Summary, weight_powers
from kullback.estimation.tails import Tail, TailBuffer
from kullback.estimation.tokens import NotFlatError, Tokens
from kullback.estimators import Estimator, divergences
from kullback.estimators.controls import RATIO, Control
from kullback.weights import Truncation

BLOCK = 1 << 16
"""Tokens worked on at a time: 512 kB of float64, which the second cache holds; with 32k a token costs a seventh more.

By one thread: two, with steps of 20 µs each, wait for the interpreter's lock, 27 ns a token where one takes 17.
"""

VALUES: Mapping[Callable[..., object], Callable[[Tokens], Float64]] = {
    divergences.k1: lambda tokens: tokens.log_ratio,
    divergences.k2: lambda tokens: 0.5 * tokens.x * tokens.x,
    divergences.k3: lambda tokens: tokens.gap,
    divergences.pearson_chi2: lambda tokens: tokens.excess * tokens.excess,
}
"""Of each token, by what is at hand already; other estimators are applied to its log-ratio."""

SUMS: Mapping[Callable[..., object], Callable[[Tokens], Float64]] = {
    divergences.k1: lambda tokens: -tokens.x_sums,
    divergences.k2: lambda tokens: tokens.half_squares,
    divergences.k3: lambda tokens: tokens.gap_sums,
    divergences.pearson_chi2: lambda tokens: tokens.excess_squares,
}
"""Of each sequence where all weights are 1, by what is at hand already."""

WEIGHTED: Mapping[Callable[..., object], Callable[[WeightedSums], Float64]] = {
    divergences.k1: lambda sums: -sums.weighted_x,
    divergences.k2: lambda sums: 0.5 * sums.squares,
    divergences.k3: lambda sums: sums.gap,
}
"""The same where tokens carry weights, of what compiled code has summed."""


@dataclass(frozen=True)
class Plan:
    """What several recipes need of every sequence, each thing once."""

    estimators: tuple[Estimator, ...]
    controls: tuple[Control, ...]
    truncation: Truncation | None
    singles: bool

    @classmethod
    def of(cls, recipes: Sequence[Recipe], *, singles: bool) -> Plan:
        """Of recipes that tame weights alike."""
        estimators = dict.fromkeys(recipe.estimator for recipe in recipes)
        controls = dict.fromkeys(control for recipe in recipes for control in recipe.columns)
        return cls(tuple(estimators), tuple(controls), recipes[0].truncation, singles)


@dataclass(frozen=True)
class Sums:
    """Of consecutive sequences.

    Attributes:
        totals: what each estimator of the plan sums up to, (estimators, rows).
        controls: what each control does, (controls, rows).
        length: counted tokens of each, (rows,).
        weight: Σ_t of the weights of each, (rows,).
        whole, log_weight: the weight of each, (rows,), and its log before it was tamed.
        largest: the largest x of each, (rows,).
        token: where the first estimator's part is largest in each, (rows,); nothing where that was not asked for.
        equal: whether every x is 0.
    """

    totals: Float64
    controls: Float64
    length: Float64
    weight: Float64
    whole: Float64
    log_weight: Float64
    largest: Float64
    token: np.ndarray
    equal: bool

    @classmethod
    def joined(cls, parts: Sequence[Sums]) -> Sums:
        """All sequences in their order."""
        arrays = [one.name for one in fields(cls) if one.name != "equal"]
        together = {name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in arrays}
        return cls(**together, equal=all(part.equal for part in parts))

    def rows(self, recipe: Recipe, plan: Plan) -> Float64:
        """The columns of the moments, (rows, columns)."""
        controls = [self.controls[plan.controls.index(control)] for control in recipe.columns]
        if CHECK not in recipe.fitted:
            controls[0] = np.clip(controls[0], -CHECK_LIMIT, CHECK_LIMIT)
        return np.stack(
            [self.totals[plan.estimators.index(recipe.estimator)], self._divisor(recipe), *controls], axis=1
        )

    def _divisor(self, recipe: Recipe) -> Float64:
        if recipe.unit == "sequence":
            return self.whole if recipe.self_normalised else np.ones_like(self.whole)
        return self.whole * self.length if recipe.self_normalised else self.weight

    def singles(self, filled: np.ndarray) -> Rows:
        """One by one, by the first estimator; `filled` are their numbers."""
        return Rows(
            number=filled,
            token=self.token,
            summand=self.totals[0],
            weight=self.weight,
            check=np.clip(self.controls[0], -CHECK_LIMIT, CHECK_LIMIT),
            log_weight=self.log_weight,
        )


@dataclass(frozen=True)
class Found:
    """What one pass gave: a summary for each recipe, and the single sequences of the first."""

    summaries: list[Summary]
    singles: Rows | None


def found_in(
    recipes: Sequence[Recipe], ragged: Ragged, *, singles: bool = False, known: Sequence[Summary] = ()
) -> Found | None:
    """The summary of each recipe, from one pass over the numbers; None where the padded way has to be taken.

    Args:
        recipes: at least one; with weights all of them tame these alike.
        ragged: the sequences.
        singles: whether those of the first recipe are wanted one by one.
        known: what each recipe's accumulator remembers: what would not be remembered beside it is not looked for.
    """
    if not all(recipe.level == "token" and recipe.truncation == recipes[0].truncation for recipe in recipes):
        return None
    filled = np.flatnonzero(_counts(ragged))
    if not len(filled):
        return None
    plan = Plan.of(recipes, singles=singles)
    try:
        floor = min((summary.ratios.floor for summary in known), default=-np.inf)
        parts, tail = _in_parts(plan, ragged, filled, floor)
    except NotFlatError:
        return None
    sums = Sums.joined(parts)
    if not all(np.isfinite(found).all() for found in (sums.totals, sums.controls)):
        return None
    keys = None if ragged.groups is None else Keys.of(ragged.groups[filled], GROUP_CELLS)
    batch = _Batch(ragged, filled, keys, tail, _floors(recipes, known))
    found = [_summary(recipe, sums.rows(recipe, plan), sums, batch) for recipe in recipes]
    return Found(found, sums.singles(filled) if singles else None)


@dataclass(frozen=True)
class _Marked:
    """Where the largest of something are among the sequences, how large, and at which token."""

    at: np.ndarray
    size: Float64
    token: np.ndarray


@dataclass(frozen=True)
class _Batch:
    """Sequences, those that have a counted token, the prompts of these, the tail of x over all tokens, and extremes.

    Attributes:
        floors: by estimator and kind, the size up to which a sequence is no extreme beside those that are known.
    """

    ragged: Ragged
    filled: np.ndarray
    keys: Keys | None
    tail: Tail
    floors: Mapping[Estimator, Mapping[str, float]]
    marks: dict[Estimator, dict[str, _Marked]] = field(default_factory=dict)


def _floors(recipes: Sequence[Recipe], known: Sequence[Summary]) -> dict[Estimator, dict[str, float]]:
    found: dict[Estimator, dict[str, float]] = {}
    for number, recipe in enumerate(recipes):
        for name in EXTREMES:
            floor = getattr(known[number], name).floor if known else -np.inf
            of = found.setdefault(recipe.estimator, {})
            of[name] = min(of.get(name, np.inf), floor)
    return found


def _counts(ragged: Ragged) -> np.ndarray:
    """Counted tokens of each sequence."""
    if ragged.mask is None:
        return np.diff(ragged.offsets)
    ends = np.concatenate([[0], np.cumsum(ragged.mask)])
    return np.diff(ends[ragged.offsets])


def _in_parts(plan: Plan, ragged: Ragged, filled: np.ndarray, floor: float) -> tuple[list[Sums], Tail]:
    """Blocks of whole sequences, and the tail of x over all tokens, as far as it is above a floor."""
    block = BLOCK
    if fused.ready(ragged.tokens):
        block = fused.BLOCK if ragged.behavior_logprobs is None else fused.WEIGHTED_BLOCK
    cuts = np.searchsorted(ragged.offsets[filled + 1], np.arange(BLOCK, ragged.tokens, block))
    cuts = np.unique(np.concatenate([[0], cuts, [len(filled)]]))
    buffer, sums = TailBuffer(floor), []
    for rows in np.split(filled, cuts[1:-1]):
        tokens = Tokens.of(ragged, int(rows[0]), int(rows[-1]) + 1, plan.truncation)
        sums.append(_block(plan, tokens))
        buffer.add(len(tokens), tokens.above)
    return sums, buffer.tail()


def _block(plan: Plan, tokens: Tokens) -> Sums:
    """The sums of some consecutive sequences."""
    length = tokens.length
    weight, whole, log_weight = _weights(tokens)
    with np.errstate(all="ignore"):
        return Sums(
            totals=np.stack([_total(estimator, tokens) for estimator in plan.estimators]),
            controls=np.stack([_control(control, tokens) for control in plan.controls]),
            length=length,
            weight=weight,
            whole=whole,
            log_weight=log_weight,
            largest=tokens.largest,
            token=_most(plan, tokens) if plan.singles else np.empty(0, dtype=np.intp),
            equal=not tokens.largest.any() and not tokens.x_sums.any(),
        )


def _weights(tokens: Tokens) -> tuple[Float64, Float64, Float64]:
    """Of each sequence: Σ_t of its tokens' weights, its own, and the log of that before it was tamed."""
    if tokens.mu is None:
        return tokens.length, np.ones_like(tokens.length), np.zeros_like(tokens.length)
    if tokens.weighted is not None:
        return tokens.weighted.weight, tokens.weighted.whole, tokens.weighted.log_weight
    weights = tokens.weights
    assert weights is not None
    return tokens.sums(weights.weight), weights.whole, weights.log_weight


def _most(plan: Plan, tokens: Tokens) -> np.ndarray:
    first = plan.estimators[0]
    if tokens.fused is None or first.fn not in SUMS:
        return largest_part(np.abs(_values(first, tokens)), tokens.starts)
    # What these add grows with x on either side of 0: it is largest at one of the ends.
    ends = (tokens.fused.most, tokens.fused.least)
    most, least = (np.abs(np.asarray(first.fn(-x))) for x in ends)
    at_most, at_least = (
        fused.first_places(tokens.q, tokens.p, tokens.starts, np.where(asked, x, np.nan))
        for x, asked in zip(ends, (most >= least, least >= most), strict=True)
    )
    return np.where((most > least) | ((most == least) & (at_most < at_least)), at_most, at_least)


def _values(estimator: Estimator, tokens: Tokens) -> Float64:
    """What every token adds."""
    if estimator.reads == "token_kl":
        value = np.asarray(estimator.fn(tokens.token_kl))
    else:
        shortcut = VALUES.get(estimator.fn)
        value = np.asarray(estimator.fn(tokens.log_ratio)) if shortcut is None else shortcut(tokens)
    if tokens.mu is None:
        return value
    return value * (tokens.before if estimator.reads == "token_kl" else tokens.weight)


def _total(estimator: Estimator, tokens: Tokens) -> Float64:
    """What every sequence adds."""
    if tokens.mu is None and estimator.reads == "log_ratio" and estimator.fn in SUMS:
        return SUMS[estimator.fn](tokens)
    if tokens.weighted is not None and estimator.reads == "log_ratio" and estimator.fn in WEIGHTED:
        return WEIGHTED[estimator.fn](tokens.weighted)
    return tokens.sums(_values(estimator, tokens))


def _control(control: Control, tokens: Tokens) -> Float64:
    """The sum of a control over every sequence."""
    if control != RATIO:
        return tokens.sums(control.fn(tokens))
    # Σ(r − 1) of what is no digit longer than its parts: e^x − 1 = gap + x.
    if tokens.weighted is not None:
        return tokens.weighted.ratio
    if tokens.mu is None:
        found = tokens.gap_sums + tokens.x_sums
        return found if tokens.mass is None else found + tokens.sums(1.0 - tokens.mass)
    weight, before = tokens.weight, tokens.before
    return tokens.sums(weight * tokens.excess + (weight - (before if tokens.mass is None else before * tokens.mass)))


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
        **weight_powers(sums.whole),
        mismatches=Oddities(),
        overflows=Oddities(),
        **_extremes(recipe, rows, sums, batch),
        span=(float(scaled.min(initial=np.inf)), float(scaled.max(initial=-np.inf))),
        equal=sums.equal,
    )


def _extremes(recipe: Recipe, rows: Float64, sums: Sums, batch: _Batch) -> dict[str, Extremes]:
    """The sequences that move the estimate most, as `Recipe` names them."""
    if recipe.estimator not in batch.marks:
        batch.marks[recipe.estimator] = _marks(recipe, rows, sums, batch)
    marks = batch.marks[recipe.estimator]
    return {name: Extremes(m.size, batch.filled[m.at], m.token, rows[m.at]) for name, m in marks.items()}


def _marks(recipe: Recipe, rows: Float64, sums: Sums, batch: _Batch) -> dict[str, _Marked]:
    """Those of an estimator, whatever it is divided by; a few sequences alone are looked at again."""
    sizes = {
        "highest": rows[:, NUMERATOR],
        "lowest": -rows[:, NUMERATOR],
        "heaviest": sums.log_weight if sums.log_weight.any() else np.full(len(rows), np.nan),
        "unlikeliest": sums.largest,
        "oddest": np.abs(rows[:, CHECK]),
    }
    floors = batch.floors[recipe.estimator]
    chosen = {name: largest_of(of) for name, of in sizes.items()}
    chosen = {name: at[sizes[name][at] > floors[name]] for name, at in chosen.items()}
    # Those of all kinds at once: padding eight rows costs as much as padding forty.
    few = np.unique(np.concatenate(list(chosen.values())))
    if not len(few):
        return {name: _Marked(at, sizes[name][at], at) for name, at in chosen.items()}
    padded = batch.ragged.few(batch.filled[few])
    parts = np.argmax(recipe.parts(padded), axis=1)
    unlikely = np.argmax(np.where(padded.mask, -padded.log_ratio(), -np.inf), axis=1)
    tokens = {name: unlikely if name in ("unlikeliest", "oddest") else parts for name in sizes}
    return {name: _Marked(at, sizes[name][at], tokens[name][np.searchsorted(few, at)]) for name, at in chosen.items()}


def _log(values: Float64) -> Float64:
    return np.log(values, out=np.full_like(values, -np.inf), where=values > 0)
