"""The block kernels in eager torch: rows at a time, so that every temporary stays in the cache.

The KL and the log-probs have hand-scheduled versions over reused buffers (fresh pages cost three times the
arithmetic). A row that breaks their assumptions, by a banned word or a log-ratio far from 0, and the other
divergences, go through ``formulas`` as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, partial, reduce

import torch
from torch import Tensor

from kullback.vocab import formulas
from kullback.vocab.formulas import FAR_APART, Divergence, wide
from kullback.vocab.kernels import Outputs

# Of one temporary: the rows of a slice are so many that it fills this. On a CPU it then stays in the 2 MB of cache that
# a core has. Forward and backward at 2,048 × 32,768 in float32: 1 MB takes 232 ms, 256 KB 297, 4 MB 267, 16 MB 367.
TEMPORARY_BYTES = {"cpu": 1 << 20}
TEMPORARY_BYTES_ELSEWHERE = 1 << 26

# The formulas as they stand hold some fifteen temporaries, so a slice for them is a quarter of one for the kernels
# here.
FORMULAS_SHARE = 4

# Columns that are added up in float32 before float64 goes on. torch adds so few pairwise, to its last digit; a whole
# row of 131,072 words is off by 1e-5, and a wide copy of it would cost twice the memory of the row.
SUMMED_COLUMNS = 1024

# Powers up to which e^−x − 1 + x is added up, and the |x| below which what follows, 2xⁿ⁻¹/(n + 1)!, is less than 1e-7
# of it. Two models of one training run are rarely farther apart than 0.19 in any word, and 0.3 is where float32's own
# e^x takes over.
SERIES = (4, 0.018), (5, 0.077), (6, 0.19), (7, 0.3)
SERIES_BELOW = SERIES[-1][1]

# log p/q above which q·(expm1(log p/q) − log p/q) is not p any more, for float32 has flushed q to 0.
STEEPEST = 30.0


def row_slices(*z: Tensor, share: int = 1) -> Iterator[slice]:
    """Slices of rows whose temporary fills ``TEMPORARY_BYTES``, or a share of it where many are held."""
    rows, columns = z[0].shape
    budget = TEMPORARY_BYTES.get(z[0].device.type, TEMPORARY_BYTES_ELSEWHERE) // share
    step = max(1, budget // (columns * compute_dtype(*z).itemsize))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def compute_dtype(*z: Tensor) -> torch.dtype:
    """float32, or float64 where a tensor has it."""
    return reduce(torch.promote_types, (x.dtype for x in z), torch.float32)


class _Buffers:
    """Temporaries that every slice of rows uses again: fresh pages for each cost three times the arithmetic."""

    def __init__(self, count: int, *z: Tensor) -> None:
        step = next(row_slices(*z), slice(0, 0))
        self.parts = [z[0].new_empty((step.stop, z[0].shape[1]), dtype=compute_dtype(*z)) for _ in range(count)]

    def rows(self, count: int) -> list[Tensor]:
        return [part[:count] for part in self.parts]


def _scaled(z: Tensor, temperature: float, into: Tensor) -> Tensor:
    """z/T in the dtype of the buffer, without a copy where it is that already."""
    if temperature != 1.0:
        return into.copy_(z).div_(temperature)
    return z if z.dtype == into.dtype else into.copy_(z)


def _scaled_copy(z: Tensor, temperature: float, *others: Tensor) -> Tensor:
    return z.to(compute_dtype(z, *others)) / temperature


def pair_statistics(zq: Tensor, zp: Tensor, temperature: float, difference: bool = False) -> Tensor:
    """See ``formulas.pair_statistics``; the logits are z/T."""
    sums = _PairSums(zq, zp)
    buffers = _Buffers(3, zq, zp)
    for at in row_slices(zq, zp):
        sums.sweep(at, zq[at], zp[at], temperature=temperature, difference=difference, buffers=buffers)
    out, lost = sums.statistics(difference)
    if not bool(lost.any()):
        return out
    for at in row_slices(zq, zp, share=FORMULAS_SHARE):
        of = lost[at].nonzero()[:, 0] + at.start
        if not len(of):
            continue
        # The first words differ by another mean than all words do: once more around that of all, which is known now.
        q, p = zq[of], zp[of]
        again = _PairSums(q, p, sums.mean[of])
        again.sweep(slice(0, len(of)), q, p, temperature=temperature, difference=difference, buffers=buffers)
        out[of], still = again.statistics(difference)
        if bool(still.any()):
            q, p, of = q[still], p[still], of[still]
            z = _scaled_copy(q, temperature, p), _scaled_copy(p, temperature, q)
            out[of] = formulas.pair_statistics(*z, difference)
    return out


class _PairSums:
    """``formulas.pair_sweep`` of whole rows, around a mean difference instead of the largest logits.

    One exponential a logit: with masses A, x = z_q − z_p − c and B = A·e^−x, the sums of A, A·x and A(e^−x − 1 + x).
    What a row's sums come to is computed once for all rows: six small tensors in place of sixty a slice.

    Args:
        zq, zp: all logits; for their shapes.
        around: c; where none is given, the mean difference of the first words.
    """

    def __init__(self, zq: Tensor, zp: Tensor, around: Tensor | None = None) -> None:
        self.around = around
        rows, columns = zq.shape
        dtype = compute_dtype(zq, zp)
        self.parts = zq.new_empty((3, rows, -(-columns // SUMMED_COLUMNS)), dtype=dtype)
        self.centre = zq.new_empty(rows, dtype=dtype)
        self.top = zq.new_empty(rows, dtype=wide(zq[:0]).dtype)
        self.steep = zq.new_zeros(rows, dtype=torch.bool)

    def sweep(
        self, at: slice, zq: Tensor, zp: Tensor, *, temperature: float, difference: bool, buffers: _Buffers
    ) -> None:
        """Of some rows: q holds the masses, then their products; b the differences; c the terms."""
        q, b, c = buffers.rows(len(zq))
        xq, xp = _scaled(zq, temperature, b), _scaled(zp, temperature, c)
        self.top[at] = _masses(xq, wide(xq.amax(dim=-1)), q)
        mass, mean, gap = self.parts[:, at]
        _add_up(q, mass)
        d = xp if difference else torch.sub(xq, xp, out=b)
        centre = _mean_of_first_words(q, d) if self.around is None else self.around[at]
        self.centre[at] = torch.where(centre.abs() < torch.inf, centre, 0.0)  # of words that are banned, any serves
        torch.sub(d, self.centre[at][:, None], out=b)
        low, high = map(float, torch.aminmax(b))
        # One look decides for the slice, so that each branch is a few fused passes instead of both and a choice.
        if low > -SERIES_BELOW and high < SERIES_BELOW and b.dtype == torch.float32:
            _add_up(q.mul_(b), mean)
            series, factor = _scaled_gap(b, c, max(-low, high))
            _add_up(q.mul_(b).mul_(series), gap)
            gap.mul_(factor)
        else:
            torch.expm1(b.neg_(), out=c).sub_(b)
            _add_up(c.mul_(q), gap)
            _add_up(q.mul_(b.neg_()), mean)
            self.steep[at] = low <= -STEEPEST

    @property
    def mean(self) -> Tensor:
        """The mean difference under the policy."""
        mass, mean, _ = wide(self.parts).sum(dim=-1)
        found: Tensor = (wide(self.centre) + mean / mass).to(self.centre.dtype)
        return found

    def statistics(self, difference: bool) -> tuple[Tensor, Tensor]:
        """(rows, 3), and which rows lost digits."""
        mass, mean, gap = wide(self.parts).sum(dim=-1)
        inside, delta = gap / mass, (gap - mean) / mass
        log_other = delta.log1p()
        excess = delta - log_other
        value = inside - excess
        lq = self.top + mass.log()
        out = torch.stack([lq, lq - wide(self.centre) + log_other, value.clamp(min=0.0)], dim=-1)
        kept = (excess <= formulas.WORST_EXCESS * value + formulas.NEGLIGIBLE_EXCESS) & ~self.steep
        kept &= out.isfinite().all(dim=-1) & (value < formulas.NEAR)
        return out, ~kept if difference else ~kept | ((out[:, 0] - out[:, 1]).abs() > FAR_APART)


def _mean_of_first_words(mass: Tensor, d: Tensor) -> Tensor:
    first = d[:, :1]  # from which the mean is taken, so that it is exact where all differences are the same
    few = slice(0, SUMMED_COLUMNS)
    return first[:, 0] + (mass[:, few] * (d[:, few] - first)).sum(dim=-1) / mass[:, few].sum(dim=-1)


def _are_far_apart(saved: Tensor) -> Tensor:
    """Whether the logits of two models are so far from each other that their difference would round."""
    return (saved[:, 0] - saved[:, 1]).abs().amax() > FAR_APART


def _scaled_gap(x: Tensor, out: Tensor, largest: float) -> tuple[Tensor, float]:
    """(e^−x − 1 + x)/x² by its series, and what it is still to be multiplied by: faster than torch's expm1."""
    # Horner's rule, times ±n!: with coefficients 1, −7, 42, … every step is one addcmul, where 1/7!, −1/6!, … need two
    # passes.
    terms = next(n for n, below in SERIES if largest < below)
    number = -float(terms)
    torch.add(x, number, out=out)
    for n in range(terms - 1, 2, -1):
        number *= -n
        torch.addcmul(x.new_full((), number), out, x, out=out)
    return out, (-1) ** terms / math.factorial(terms)


def _add_up(x: Tensor, out: Tensor) -> None:
    """Over the columns in parts of ``SUMMED_COLUMNS``, of which out has one each."""
    whole = x.shape[1] - x.shape[1] % SUMMED_COLUMNS
    count = whole // SUMMED_COLUMNS
    torch.sum(torch.unflatten(x[:, :whole], 1, (count, SUMMED_COLUMNS)), -1, out=out[:, :count])
    if count < out.shape[1]:
        torch.sum(x[:, whole:], -1, out=out[:, count])


def _sum(x: Tensor) -> Tensor:
    """Over the columns, in float64 over blocks of them: without a wide copy."""
    whole = x.shape[1] - x.shape[1] % SUMMED_COLUMNS
    parts = torch.unflatten(x[:, :whole], 1, (-1, SUMMED_COLUMNS)).sum(dim=-1)
    return wide(parts).sum(dim=-1) + wide(x[:, whole:]).sum(dim=-1)


def _masses(x: Tensor, around: Tensor, out: Tensor) -> Tensor:
    """e^(x − c) of a block into out, and c: around, as far as its product has digits."""
    # torch's exp2 takes a third of its exp's time and half of its fused softmax's: 40 µs, 112 and 78 for a block of
    # 1 MB. x·log₂e − c·log₂e is one pass that rounds once, and c is what the rounded c·log₂e comes to.
    column, centre = _powers_of_two(around, x.dtype)
    torch.add(column, x, alpha=_log2_e(x.dtype), out=out).exp2_()
    return centre


def _powers_of_two(around: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """−c·log₂e as a column that ``_masses`` adds, and what c its rounding leaves."""
    column = (around * -_log2_e(dtype)).to(dtype)
    return column[:, None], wide(column) / -_log2_e(dtype)


@cache
def _log2_e(dtype: torch.dtype) -> float:
    """log₂e as the dtype has it."""
    return float(torch.tensor(math.log2(math.e), dtype=dtype))


def _column(x: Tensor, like: Tensor) -> Tensor:
    return x[:, None].to(like.dtype)


def pair_sums(
    zq: Tensor,
    zp: Tensor,
    normalisers: Tensor,
    *,
    divergence: Divergence,
    temperature: float,
    difference: bool = False,
) -> Tensor:
    """See ``formulas.pair_sums``; ``normalisers`` is (rows, 2)."""
    out = torch.empty((len(zq), 3), dtype=normalisers.dtype, device=zq.device)
    for at in row_slices(zq, zp, share=FORMULAS_SHARE):
        z = _scaled_copy(zq[at], temperature, zp), _scaled_copy(zp[at], temperature, zq)
        out[at] = formulas.pair_sums(
            *z, normalisers[at], terms=divergence.terms, skew=divergence.skew, difference=difference
        )
    return out


def pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    divergence: Divergence,
    temperature: float,
    outs: Outputs,
    difference: bool = False,
) -> None:
    """See ``formulas.pair_gradients``; written to outs, which may be the logits themselves."""
    buffers = _Buffers(3, zq, zp)
    plain = divergence.chains and len(saved) > 0 and bool(saved.isfinite().all() and not _are_far_apart(saved))
    numbers = _GradientNumbers.of(saved, upstream, zq.new_empty(0, dtype=compute_dtype(zq, zp)))
    fast = partial(_kl_gradients, temperature=temperature, difference=difference)
    for at in row_slices(zq, zp):
        q, p = zq[at], zp[at]
        to_q, to_p = (None if out is None else out[at] for out in outs)
        if plain and fast(q, p, numbers.rows(at), buffers=buffers.rows(len(q)), outs=(to_q, to_p)):
            continue
        for of in row_slices(q, p, share=FORMULAS_SHARE):
            z = _scaled_copy(q[of], temperature, p), _scaled_copy(p[of], temperature, q)
            grads = formulas.pair_gradients(
                *z,
                saved[at][of],
                upstream[at][of],
                terms=divergence.terms,
                skew=divergence.skew,
                difference=difference,
            )
            for out, grad in zip((to_q, to_p), grads, strict=True):
                if out is not None:
                    out[of] = grad


@dataclass(frozen=True)
class _GradientNumbers:
    """Columns of numbers that rows of logits are moved and multiplied by, for all rows at once.

    Attributes:
        of_q: −log₂ of the policy's normaliser, as the dtype of the logits has it.
        weight: the upstream gradient, times what that rounding makes of e^−normaliser; negative, for log p/q.
        apart: log Σe^z_q − log Σe^z_p, rounded.
        rest: what that rounding left.
        value: the divergence.
    """

    of_q: Tensor
    weight: Tensor
    apart: Tensor
    rest: Tensor
    value: Tensor

    @classmethod
    def of(cls, saved: Tensor, upstream: Tensor, like: Tensor) -> _GradientNumbers:
        """From the statistics of whole rows."""
        lq, lp, value = saved[:, :3].unbind(dim=-1)
        of_q, near_q = _powers_of_two(lq, like.dtype)
        rest = (lq - lp) - wide((lq - lp).to(like.dtype))
        return cls(of_q, *(_column(x, like) for x in (upstream * -(near_q - lq).exp(), lq - lp, rest, value)))

    def rows(self, at: slice) -> _GradientNumbers:
        """Of some of them."""
        return _GradientNumbers(*(getattr(self, f.name)[at] for f in fields(self)))


def _kl_gradients(
    zq: Tensor,
    zp: Tensor,
    of: _GradientNumbers,
    *,
    temperature: float,
    difference: bool,
    buffers: list[Tensor],
    outs: Outputs,
) -> bool:
    """The KL's gradients g·q(log q/p − KL) and g(p − q); False, and nothing is written, where words are banned.

    p − q is q·expm1(log p/q), of which nothing cancels, unless p is far above q: then False too.
    """
    q, b, c = buffers
    out_q, out_p = outs
    xq, xp = _scaled(zq, temperature, b), _scaled(zp, temperature, c)
    torch.add(of.of_q, xq, alpha=_log2_e(q.dtype), out=q).exp2_().mul_(of.weight)
    below = torch.sub(of.apart, xp if difference else torch.sub(xq, xp, out=b), out=b)
    if not bool(below.amax() < (math.inf if out_p is None else STEEPEST)):  # nan where both models ban a word
        return False
    # In two steps, for where one word has nearly all the mass its log p/q is next to nothing beside what is taken off:
    # rounded to one number, that leaves gradients there that are off by 1e-3.
    if out_p is not None:
        c = torch.add(below, of.rest, out=c).expm1_().mul_(q)
    if out_q is not None:
        _multiplied(q, below.add_(of.rest + of.value), out_q)
    if out_p is not None:
        out_p.copy_(c.neg_())
    return True


def _multiplied(x: Tensor, y: Tensor, out: Tensor) -> None:
    """x·y into out, over y where out has another dtype: torch's own rounding of a result goes by small pieces."""
    if out.dtype == y.dtype:
        torch.mul(x, y, out=out)
    else:
        out.copy_(y.mul_(x))


def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``; the logits are z/T."""
    out = torch.empty((len(z), 3), dtype=wide(z[:0]).dtype, device=z.device)
    buffers = _Buffers(2, z)
    for at in row_slices(z):
        q, b = buffers.rows(at.stop - at.start)
        x = _scaled(z[at], temperature, b)
        own = out[at]
        largest = x.amax(dim=-1)
        own[:, 2] = x.gather(-1, index[at].clamp(min=0)[:, None])[:, 0].where(index[at] >= 0, 0.0)
        torch.sub(x, largest[:, None], out=b)  # first, so that a word with all the mass has exactly 1 of it
        torch.mul(b, _log2_e(b.dtype), out=q).exp2_()
        mass = _sum(q)
        own[:, 0] = wide(largest) + mass.log()
        own[:, 1] = mass.log() - wide(b.mul_(q).sum(dim=-1)) / mass
        if not bool(own[:, 1].isfinite().all()):
            for of in row_slices(x, share=FORMULAS_SHARE):
                own[of] = formulas.token_statistics(_scaled_copy(z[at][of], temperature), index[at][of])
    return out


def token_gradients(
    z: Tensor,
    index: Tensor,
    saved: Tensor,
    *,
    of_logprob: Tensor,
    of_entropy: Tensor,
    temperature: float,
    out: Tensor,
) -> None:
    """See ``formulas.token_gradients``; written to out, which may be z itself."""
    buffers = _Buffers(2, z)
    for at in row_slices(z):
        q, b = buffers.rows(at.stop - at.start)
        x = _scaled(z[at], temperature, b)
        total, entropy = saved[at].unbind(dim=-1)
        g1, g2 = of_logprob[at].to(total.dtype), of_entropy[at].to(total.dtype)
        coarse = _column(total, b)
        fine = total - coarse[:, 0].to(total.dtype)
        inside = (-fine).exp()
        if bool(g2.any()):  # log-probs alone, as most losses have them, spare two passes
            torch.mul(torch.sub(x, coarse, out=b), _log2_e(b.dtype), out=q).exp2_()
            b.mul_(_column(-g2 * inside, b))
            q.mul_(b.add_(_column(inside * (g2 * (fine - entropy) - g1), b)))
        else:
            torch.sub(x, coarse, out=q).mul_(_log2_e(q.dtype)).exp2_().mul_(_column(-inside * g1, q))
        chosen = torch.where(index[at] >= 0, g1, 0.0)
        q.scatter_add_(-1, index[at].clamp(min=0)[:, None], _column(chosen, q))
        if bool(q.sum().isfinite()):
            out[at] = q
        else:
            out[at] = formulas.token_gradients(
                _scaled_copy(z[at], temperature), index[at], saved[at], of_logprob[at], of_entropy[at]
            )
