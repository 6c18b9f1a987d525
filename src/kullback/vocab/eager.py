"""The block kernels in eager torch: rows at a time, so that every temporary stays in the cache.

The KL and the log-probs have hand-scheduled versions over reused buffers (fresh pages cost three times the
arithmetic). A row that breaks their assumptions, by a banned word or a log-ratio far from 0, and the other
divergences, go through ``formulas`` as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

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

# |log p/q| below which the series up to x⁷ has float32's digits: at 0.3 it errs by 3.6e-8 of the value.
SERIES_BELOW = 0.3

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
    fast = _difference_statistics if difference else _pair_statistics
    out = torch.empty((len(zq), 3), dtype=wide(zq[:0]).dtype, device=zq.device)
    buffers = _Buffers(4, zq, zp)
    for at in row_slices(zq, zp):
        q, p, into = zq[at], zp[at], out[at]
        if not fast(q, p, temperature, buffers.rows(len(q)), into):
            for of in row_slices(q, p, share=FORMULAS_SHARE):
                into[of] = formulas.pair_statistics(
                    _scaled_copy(q[of], temperature, p), _scaled_copy(p[of], temperature, q), difference
                )
    return out


def _pair_statistics(zq: Tensor, zp: Tensor, temperature: float, buffers: list[Tensor], out: Tensor) -> bool:
    # In four buffers, and as few passes as they allow: q keeps the policy's masses; b its logits at a temperature, then
    # log p/q; c the reference's logits, then the terms of the sum; d is touched only where c is still being read.
    q, b, c, d = buffers
    xq, xp = _scaled(zq, temperature, b), _scaled(zp, temperature, c)
    mass = _softmax_and_mass(xq, q, out[:, 0])
    _softmax_and_mass(xp, d if xp is c else c, out[:, 1])  # a buffer that is not touched takes no memory: 1 MB less
    torch.sub(xp, xq, out=b).sub_(_column(out[:, 1] - out[:, 0], b))
    steepest = b.amax()
    # One look decides for the slice, so that each branch is a few fused passes instead of both and a choice.
    if bool((steepest < SERIES_BELOW) & (b.amin() > -SERIES_BELOW)) and b.dtype == torch.float32:
        out[:, 2] = wide(_small_gap(b, c).mul_(q).sum(dim=-1)) / (5040.0 * mass)
        return bool(out.isfinite().all() & ~_are_far_apart(out))
    torch.expm1(b, out=c).sub_(b)
    out[:, 2] = wide(c.mul_(q).sum(dim=-1)) / mass
    return bool((steepest < STEEPEST) & out.isfinite().all() & ~_are_far_apart(out))


def _difference_statistics(z: Tensor, d: Tensor, temperature: float, buffers: list[Tensor], out: Tensor) -> bool:
    # As above, around the mean m of d instead of a normaliser: q keeps the masses; b becomes m − d; c the terms.
    q, b, c, e = buffers
    xq, x = _scaled(z, temperature, b), _scaled(d, temperature, e)
    mass = _softmax_and_mass(xq, q, out[:, 0])
    mean = _sum(torch.mul(q, x, out=c)) / mass
    torch.sub(_column(mean, x), x, out=b)
    steepest = b.amax()
    if bool((steepest < SERIES_BELOW) & (b.amin() > -SERIES_BELOW)) and b.dtype == torch.float32:
        value = (wide(_small_gap(b, c).mul_(q).sum(dim=-1)) / (5040.0 * mass)).log1p()
    else:
        torch.expm1(b, out=c).sub_(b)
        value = (wide(c.mul_(q).sum(dim=-1)) / mass).log1p()
    out[:, 1] = out[:, 0] - (mean - value)
    out[:, 2] = value
    return bool((steepest < STEEPEST) & out.isfinite().all())


def _are_far_apart(saved: Tensor) -> Tensor:
    """Whether the logits of two models are so far from each other that their difference would round."""
    return (saved[:, 0] - saved[:, 1]).abs().amax() > FAR_APART


def _small_gap(x: Tensor, out: Tensor) -> Tensor:
    """5040(e^x − 1 − x) by its series: no cancellation, and faster than torch's expm1."""
    # Horner's rule, times 7!: with coefficients 1, 7, 42, … every step is one addcmul, where 1/7!, 1/6!, … need two
    # passes.
    torch.add(x, 7.0, out=out)
    for number in (42.0, 210.0, 840.0, 2520.0):
        torch.addcmul(x.new_full((), number), out, x, out=out)
    return out.mul_(x).mul_(x)


def _softmax_and_mass(z: Tensor, out: Tensor, normaliser: Tensor) -> Tensor:
    """``_softmax`` with the whole normaliser, and the sum of its masses, which is near 1."""
    # torch's fused softmax adds up a row of 131,072 words with an error of 1e-5. Its masses, added up again in float64,
    # say how much, and the KL, the log-probs and the entropies err by 1e-6 (relative 3e-7) instead of 1e-5 to 3e-5.
    _softmax(z, out, normaliser)
    mass = _sum(out)
    normaliser += mass.log()
    return mass


def _sum(x: Tensor) -> Tensor:
    """Over the columns, in float64 over blocks of them: without a wide copy."""
    whole = x.shape[1] - x.shape[1] % SUMMED_COLUMNS
    parts = torch.unflatten(x[:, :whole], 1, (-1, SUMMED_COLUMNS)).sum(dim=-1)
    return wide(parts).sum(dim=-1) + wide(x[:, whole:]).sum(dim=-1)


def _softmax(z: Tensor, out: Tensor, normaliser: Tensor) -> None:
    """Softmax of the block, and its log Σe^z up to the error of the sum."""
    # torch's fused softmax is faster than its exp alone, and tells its sum by its largest mass: e^(max z)/Σe^z.
    torch.ops.aten._softmax.out(z, -1, False, out=out)
    torch.sub(wide(z.amax(dim=-1)), wide(out.amax(dim=-1)).log(), out=normaliser)


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
    buffers = _Buffers(4, zq, zp)
    plain = divergence.chains and len(saved) > 0 and bool(saved.isfinite().all() and not _are_far_apart(saved))
    fast = _difference_gradients if difference else _kl_gradients
    for at in row_slices(zq, zp):
        q, p, kept, g = zq[at], zp[at], saved[at], upstream[at]
        to_q, to_p = (None if out is None else out[at] for out in outs)
        temporaries = buffers.rows(len(q))
        if plain and fast(q, p, kept, g, temperature=temperature, buffers=temporaries, outs=(to_q, to_p)):
            continue
        for of in row_slices(q, p, share=FORMULAS_SHARE):
            z = _scaled_copy(q[of], temperature, p), _scaled_copy(p[of], temperature, q)
            grads = formulas.pair_gradients(
                *z, kept[of], g[of], terms=divergence.terms, skew=divergence.skew, difference=difference
            )
            for out, grad in zip((to_q, to_p), grads, strict=True):
                if out is not None:
                    out[of] = grad


def _kl_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    temperature: float,
    buffers: list[Tensor],
    outs: Outputs,
) -> bool:
    """The KL's gradients g·q(log q/p − KL) and g(p − q), unless a word is banned: False, and nothing is written."""
    q, b, c, p = buffers
    lq, lp, value = saved[:, :3].unbind(dim=-1)
    xq, xp = _scaled(zq, temperature, b), _scaled(zp, temperature, c)
    own = torch.empty_like(lq)
    _softmax(xq, q, own)
    weight_q = upstream * (own - lq).exp()  # of a block in the whole vocabulary, and of what the softmax's sum was off
    out_q, out_p = outs
    log_ratio = torch.sub(xq, xp, out=b)
    if out_p is not None:
        _softmax(xp, p, own)
        p.mul_(_column(upstream * (own - lp).exp(), p))
    if not bool(torch.isfinite(log_ratio.sum())):  # one pass says whether any of them is infinite
        return False
    q.mul_(_column(weight_q, q))
    if out_q is not None:
        torch.mul(q, log_ratio.add_(_column(lp - lq - value, q)), out=out_q)
    if out_p is not None:
        torch.sub(p, q, out=out_p)
    return True


def _difference_gradients(
    z: Tensor,
    d: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    temperature: float,
    buffers: list[Tensor],
    outs: Outputs,
) -> bool:
    """``_kl_gradients`` from d = z_q − z_p; g(p − q) is g·q·expm1(log p/q), unless p is far above q: then False."""
    q, b, c, e = buffers
    lq, lp, value = saved[:, :3].unbind(dim=-1)
    xq, x = _scaled(z, temperature, b), _scaled(d, temperature, e)
    own = torch.empty_like(lq)
    _softmax(xq, q, own)
    q.mul_(_column(upstream * (own - lq).exp(), q))
    out_q, out_p = outs
    below = torch.sub(_column(lq - lp, x), x, out=b)
    if not bool(below.amax() < STEEPEST):
        return False
    if out_p is not None:
        torch.mul(torch.expm1(below, out=c), q, out=c)
    if out_q is not None:
        torch.mul(q.neg_(), below.add_(_column(value, q)), out=out_q)
    if out_p is not None:
        out_p.copy_(c)
    return True


def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``; the logits are z/T."""
    out = torch.empty((len(z), 3), dtype=wide(z[:0]).dtype, device=z.device)
    buffers = _Buffers(2, z)
    for at in row_slices(z):
        q, b = buffers.rows(at.stop - at.start)
        x = _scaled(z[at], temperature, b)
        own = out[at]
        mass = _softmax_and_mass(x, q, own[:, 0])
        largest = x.amax(dim=-1)
        own[:, 2] = x.gather(-1, index[at].clamp(min=0)[:, None])[:, 0].where(index[at] >= 0, 0.0)
        torch.sub(x, largest[:, None], out=b)
        own[:, 1] = own[:, 0] - wide(largest) - wide(b.mul_(q).sum(dim=-1)) / mass
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
        own = torch.empty_like(total)
        _softmax(x, q, own)
        inside = (own - total).exp()
        if bool(g2.any()):  # log-probs alone, as most losses have them, spare two passes of five
            coarse = _column(total, b)
            fine = total - coarse[:, 0].to(total.dtype)
            torch.sub(x, coarse, out=b).mul_(_column(-g2 * inside, b))
            q.mul_(b.add_(_column(inside * (g2 * (fine - entropy) - g1), b)))
        else:
            q.mul_(_column(-inside * g1, q))
        chosen = torch.where(index[at] >= 0, g1, 0.0)
        q.scatter_add_(-1, index[at].clamp(min=0)[:, None], _column(chosen, q))
        if bool(q.sum().isfinite()):
            out[at] = q
        else:
            out[at] = formulas.token_gradients(
                _scaled_copy(z[at], temperature), index[at], saved[at], of_logprob[at], of_entropy[at]
            )
