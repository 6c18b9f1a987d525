"""What single sequences add to the sums of an estimator, kept so that any grouping of them can be judged at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from kullback.arrays import Float64
from kullback.errors import InputError
from kullback.estimation.block import Block
from kullback.estimation.conclusion import conclusion
from kullback.estimation.extremes import KEPT, Extremes
from kullback.estimation.moments import KeyedMoments, Moments
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import CHECK, Recipe, Unit
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimation.summary import EXTREMES, GROUP_CELLS, ROW_CELLS, Summary, weight_powers
from kullback.estimation.tails import Tail
from kullback.estimators import Estimator


@dataclass(frozen=True)
class Rows:
    """Of each sequence with a counted token, (n,); 48 bytes a sequence, whatever its length.

    Attributes:
        number: its number among all sequences.
        token: the position that has the largest part in the summand.
        summand: Σ_t weight·k, what is averaged.
        weight: Σ_t weight, the number of counted tokens on-policy.
        check: Σ_t weight·(r − 1), whose mean must be 0.
        log_weight: log ρ of the whole sequence.
    """

    number: np.ndarray
    token: np.ndarray
    summand: Float64
    weight: Float64
    check: Float64
    log_weight: Float64

    @classmethod
    def of(cls, sequences: Sequences | Ragged, estimator: Estimator, span: slice = slice(None)) -> Rows:
        """Rows of sequences, numbered from 0 on.

        Args:
            sequences: as they were checked.
            estimator: a member without fitted coefficients and not a function of a mean.
            span: positions that count; the weights are those of everything before them all the same.
        """
        if span == slice(None) and _is_flat(sequences, estimator):
            assert isinstance(sequences, Ragged)
            return cls.joined([one for rows in _stretches(sequences) for one in _flat(sequences, rows, estimator)])
        parts = [_rows(block, estimator, span) for block in sequences.blocks()]
        lengths = np.cumsum([0, *(length for length, _ in parts)])
        shifted = [
            replace(rows, number=rows.number + before) for before, (_, rows) in zip(lengths, parts, strict=False)
        ]
        return cls.joined(shifted)

    @classmethod
    def by_span(cls, sequences: Sequences | Ragged, estimator: Estimator, spans: Sequence[slice]) -> list[Rows]:
        """`of` for each of several spans, which follow each other from position 0 on."""
        if not _is_flat(sequences, estimator):
            return [cls.of(sequences, estimator, span) for span in spans]
        assert isinstance(sequences, Ragged)
        parts = [_flat(sequences, rows, estimator, spans) for rows in _stretches(sequences)]
        return [cls.joined(each) for each in zip(*parts, strict=True)]

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """All rows in their order; at least one part."""
        return cls(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)})

    def __len__(self) -> int:
        return len(self.summand)

    def __getitem__(self, chosen: np.ndarray | slice) -> Rows:
        return Rows(**{one.name: getattr(self, one.name)[chosen] for one in fields(self)})

    def estimate(self, estimator: Estimator, unit: Unit, groups: np.ndarray | None = None) -> Estimate:
        """The estimate that these sequences give, by the same formulas as `kullback.estimate` at level "token".

        The tail of p/q over tokens is not known any more: k̂ is that of the summands and of the weights.

        Raises:
            InputError: no sequence, or every weight is 0.
        """
        if not len(self):
            raise InputError("no sequence came, but an estimate needs at least one")
        recipe = Recipe.of(estimator, "token", unit, None)
        return conclusion(recipe, self._summary(unit, groups))

    def _summary(self, unit: Unit, groups: np.ndarray | None) -> Summary:
        divisor = self.weight if unit == "token" else np.ones_like(self.weight)
        columns = np.stack([self.summand, divisor, self.check], axis=1)
        finite = np.asarray(np.isfinite(columns).all(axis=1))
        kept = columns[finite]
        ratio = kept[kept[:, 1] > 0]
        scaled = ratio[:, 0] / ratio[:, 1]
        positive = kept[kept[:, 0] > 0, 0]
        nothing = Summary.nothing(CHECK + 1)
        extremes = {**dict.fromkeys(EXTREMES, nothing.highest), **self._extremes(columns, finite)}
        return Summary(
            rows=len(self),
            empty=0,
            infinite=int((~finite).sum()),
            cells=Moments.of(np.arange(len(kept)) % ROW_CELLS, kept, min(len(kept), ROW_CELLS)),
            prompts=None if groups is None else KeyedMoments.of(groups[finite], kept, GROUP_CELLS),
            ratios=nothing.ratios,
            weights=Tail.of(self.log_weight),
            summands=Tail.of(np.log(positive)),
            **weight_powers(np.exp(self.log_weight)),
            mismatches=nothing.mismatches,
            overflows=nothing.overflows,
            span=(float(scaled.min(initial=np.inf)), float(scaled.max(initial=-np.inf))),
            equal=not (self.summand.any() or self.check.any()),
            **extremes,
        )

    def _extremes(self, columns: Float64, finite: np.ndarray) -> dict[str, Extremes]:
        size = np.where(finite, self.summand, np.nan)
        return {"highest": self._largest(size, columns), "lowest": self._largest(-size, columns)}

    def _largest(self, size: Float64, columns: Float64) -> Extremes:
        known = np.flatnonzero(~np.isnan(size))
        first = known[np.argsort(-size[known], kind="stable")[:KEPT]]
        return Extremes(size[first], self.number[first], self.token[first], columns[first])


STRETCH = 1 << 16
"""Tokens worked on at a time where sequences lie end to end; 512 kB of float64."""


def _stretches(ragged: Ragged) -> Iterator[slice]:
    """Whole sequences, a few at a time."""
    cuts = np.searchsorted(ragged.offsets, np.arange(STRETCH, ragged.tokens, STRETCH))
    ends = np.unique(np.concatenate([[0], cuts, [len(ragged)]])).tolist()
    yield from (slice(start, stop) for start, stop in pairwise(ends))


def _is_flat(sequences: Sequences | Ragged, estimator: Estimator) -> bool:
    """Whether no row needs to be padded, which takes a tenth of the time."""
    return isinstance(sequences, Ragged) and sequences.behavior_logprobs is None and estimator.reads == "log_ratio"


def _flat(ragged: Ragged, rows: slice, estimator: Estimator, spans: Sequence[slice] = (slice(0, None),)) -> list[Rows]:
    """The rows of a stretch on-policy, for each of the spans."""
    offsets = ragged.offsets[rows.start : rows.stop + 1]
    inside = slice(offsets[0], offsets[-1])
    log_ratio = ragged.logprobs[inside].astype(np.float64) - ragged.ref_logprobs[inside]
    counts = np.ones(len(log_ratio), dtype=bool) if ragged.mask is None else ragged.mask[inside]
    # Where each span begins in each row that reaches it: together they cut the stretch into pieces, none of them empty.
    begin = (offsets[:-1] - offsets[0])[:, None] + np.array([span.start for span in spans])
    row, number = np.nonzero(begin < (offsets[1:] - offsets[0])[:, None])
    starts = begin[row, number]
    if not len(starts):
        none, at = np.empty(0), np.empty(0, dtype=np.intp)
        return [Rows(at, at, none, none, none, none) for _ in spans]
    with np.errstate(all="ignore"):
        summand = np.where(counts, estimator.fn(np.where(counts, log_ratio, 0.0)), 0.0)
        check = np.where(counts, np.expm1(-log_ratio), 0.0)
        pieces = Rows(
            number=rows.start + row,
            token=largest_part(np.abs(summand), starts) + begin[row, number] - begin[row, 0],
            summand=np.add.reduceat(summand, starts),
            weight=np.add.reduceat(counts, starts, dtype=np.float64),
            check=np.clip(np.add.reduceat(check, starts), -1e90, 1e90),
            log_weight=np.zeros(len(row)),
        )
    filled = pieces.weight > 0
    return [pieces[filled & (number == at)] for at in range(len(spans))]


def largest_part(size: Float64, starts: np.ndarray) -> np.ndarray:
    """Where in each stretch from one start to the next the largest of it stands first, counted from the start."""
    size, starts = size[starts[0] :], starts - starts[0]  # rows without a counted token may come first
    spans = np.diff(np.append(starts, len(size)))
    at = np.flatnonzero(size == np.repeat(np.maximum.reduceat(size, starts), spans))
    row = np.searchsorted(starts, at, side="right") - 1
    _, first = np.unique(row, return_index=True)
    found = np.zeros(len(starts), dtype=np.intp)
    found[row[first]] = at[first] - starts[row[first]]
    return found


def _rows(sequences: Sequences, estimator: Estimator, span: slice) -> tuple[int, Rows]:
    """How many sequences there were, and the rows of those with a counted token within the span."""
    filled = np.flatnonzero(sequences.mask.any(axis=1))
    block = Block.of(sequences.select(filled), "token", None)
    reads_kl = estimator.reads == "token_kl"
    with np.errstate(all="ignore"):
        value = estimator.fn(block.token_kl if reads_kl else block.log_ratio)
        ratio = np.expm1(-block.log_ratio)
        summand = _weighed(block.before if reads_kl else block.weight, value, block.mask)
        check = _weighed(block.weight, ratio, block.mask)
    within = np.asarray(block.mask[:, span].any(axis=1))
    start = span.start or 0
    rows = Rows(
        number=filled,
        token=start + np.argmax(np.abs(summand[:, span]), axis=1) if within.any() else np.zeros(len(filled), np.intp),
        summand=summand[:, span].sum(axis=1),
        weight=np.where(block.mask, block.weight, 0.0)[:, span].sum(axis=1),
        check=np.clip(check[:, span].sum(axis=1), -1e90, 1e90),
        log_weight=block.log_weight,
    )
    return len(sequences), rows[within]


def _weighed(weight: Float64, value: Float64, mask: np.ndarray) -> Float64:
    """weight·value where a token counts; a weight of 0 beats an infinite value."""
    return np.where(mask & (weight > 0), weight * np.where(weight > 0, value, 0.0), 0.0)
