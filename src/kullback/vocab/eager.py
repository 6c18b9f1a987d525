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
from kullback.vocab.formulas import APART, Divergence, wide

TEMPORARY_BYTES = {"cpu": 1 << 20}
"""Of one temporary: on a CPU it stays in the cache (of 1/4 to 16 MB the fastest on cores with 2 MB of it)."""
ELSEWHERE = 1 << 26
MANY = 4
"""The part of that for the formulas as they stand, which hold some fifteen temporaries."""
SUMMED = 1024
"""Columns whose sum in float32 is exact enough."""
SMALL, STEEPEST = 0.3, 30.0
"""|log p/q| below which six terms of the series hold float32, and log p/q above which q·expm1(log p/q) loses p
to float32's underflow of q."""


def rows_at_a_time(*z: Tensor, share: int = 1) -> Iterator[slice]:
    """Slices of rows whose temporary fills ``TEMPORARY_BYTES``, or a share of it where many are held."""
    rows, columns = z[0].shape
    budget = TEMPORARY_BYTES.get(z[0].device.type, ELSEWHERE) // share
    step = max(1, budget // (columns * computed_in(*z).itemsize))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def computed_in(*z: Tensor) -> torch.dtype:
    """float32, or float64 where a tensor has it."""
    return reduce(torch.promote_types, (x.dtype for x in z), torch.float32)


class _Buffers:
    """Temporaries that every slice of rows uses again."""

    def __init__(self, count: int, *z: Tensor) -> None:
        step = next(rows_at_a_time(*z), slice(0, 0))
        self.parts = [z[0].new_empty((step.stop, z[0].shape[1]), dtype=computed_in(*z)) for _ in range(count)]

    def rows(self, count: int) -> list[Tensor]:
        return [part[:count] for part in self.parts]


def _read(z: Tensor, temperature: float, into: Tensor) -> Tensor:
    """z/T in the dtype of the buffer, without a copy where it is that already."""
    if temperature != 1.0:
        return into.copy_(z).div_(temperature)
    return z if z.dtype == into.dtype else into.copy_(z)


def _plain(z: Tensor, temperature: float, *others: Tensor) -> Tensor:
    return z.to(computed_in(z, *others)) / temperature


def pair_statistics(zq: Tensor, zp: Tensor, temperature: float) -> Tensor:
    """See ``formulas.pair_statistics``; the logits are z/T."""
    out = torch.empty((len(zq), 3), dtype=wide(zq[:0]).dtype, device=zq.device)
    buffers = _Buffers(4, zq, zp)
    for at in rows_at_a_time(zq, zp):
        q, p, into = zq[at], zp[at], out[at]
        if not _pair_statistics(q, p, temperature, buffers.rows(len(q)), into):
            for of in rows_at_a_time(q, p, share=MANY):
                into[of] = formulas.pair_statistics(_plain(q[of], temperature, p), _plain(p[of], temperature, q))
    return out


def _pair_statistics(zq: Tensor, zp: Tensor, temperature: float, buffers: list[Tensor], out: Tensor) -> bool:
    q, b, c, d = buffers
    xq, xp = _read(zq, temperature, b), _read(zp, temperature, c)
    mass = _normalised(xq, q, out[:, 0])
    _normalised(xp, d if xp is c else c, out[:, 1])  # a buffer that is not touched takes no memory
    torch.sub(xp, xq, out=b).sub_(_column(out[:, 1] - out[:, 0], b))
    steepest = b.amax()
    if bool((steepest < SMALL) & (b.amin() > -SMALL)) and b.dtype == torch.float32:
        out[:, 2] = wide(_small_gap(b, c).mul_(q).sum(dim=-1)) / (5040.0 * mass)
        return bool(out.isfinite().all() & ~_far(out))
    torch.expm1(b, out=c).sub_(b)
    out[:, 2] = wide(c.mul_(q).sum(dim=-1)) / mass
    return bool((steepest < STEEPEST) & out.isfinite().all() & ~_far(out))


def _far(saved: Tensor) -> Tensor:
    """Whether the logits of two models are so far from each other that their difference would round."""
    return (saved[:, 0] - saved[:, 1]).abs().amax() > APART


def _small_gap(x: Tensor, out: Tensor) -> Tensor:
    """5040(e^x − 1 − x) by its series: no cancellation, and faster than torch's expm1."""
    torch.add(x, 7.0, out=out)
    for number in (42.0, 210.0, 840.0, 2520.0):
        torch.addcmul(x.new_full((), number), out, x, out=out)
    return out.mul_(x).mul_(x)


def _normalised(z: Tensor, out: Tensor, normaliser: Tensor) -> Tensor:
    """``_softmax`` with the whole normaliser, and the sum of out: the fused one adds up a row with 1e-5 of error."""
    _softmax(z, out, normaliser)
    mass = _sum(out)
    normaliser += mass.log()
    return mass


def _sum(x: Tensor) -> Tensor:
    """Over the columns, in float64 over blocks of them: without a wide copy."""
    whole = x.shape[1] - x.shape[1] % SUMMED
    parts = torch.unflatten(x[:, :whole], 1, (-1, SUMMED)).sum(dim=-1)
    return wide(parts).sum(dim=-1) + wide(x[:, whole:]).sum(dim=-1)


def _softmax(z: Tensor, out: Tensor, normaliser: Tensor) -> None:
    """Softmax of the block, and its log Σe^z: torch's fused softmax is faster than its exp alone."""
    torch.ops.aten._softmax.out(z, -1, False, out=out)
    torch.sub(wide(z.amax(dim=-1)), wide(out.amax(dim=-1)).log(), out=normaliser)


def _column(x: Tensor, like: Tensor) -> Tensor:
    return x[:, None].to(like.dtype)


def pair_sums(
    zq: Tensor, zp: Tensor, normalisers: Tensor, divergence: Divergence, skew: float, temperature: float
) -> Tensor:
    """See ``formulas.pair_sums``; ``normalisers`` is (rows, 2)."""
    out = torch.empty((len(zq), 3), dtype=normalisers.dtype, device=zq.device)
    for at in rows_at_a_time(zq, zp, share=MANY):
        z = _plain(zq[at], temperature, zp), _plain(zp[at], temperature, zq)
        out[at] = formulas.pair_sums(*z, normalisers[at], divergence.terms, skew)
    return out


def pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    divergence: Divergence,
    skew: float,
    temperature: float,
    out_q: Tensor | None,
    out_p: Tensor | None,
) -> None:
    """See ``formulas.pair_gradients``; written to out_q and out_p, which may be the logits themselves."""
    buffers = _Buffers(4, zq, zp)
    plain = divergence.chains and len(saved) > 0 and bool(saved.isfinite().all() and not _far(saved))
    for at in rows_at_a_time(zq, zp):
        q, p, kept, g = zq[at], zp[at], saved[at], upstream[at]
        outs = None if out_q is None else out_q[at], None if out_p is None else out_p[at]
        if plain and _kl_gradients(q, p, kept, g, temperature, buffers.rows(len(q)), outs):
            continue
        for of in rows_at_a_time(q, p, share=MANY):
            z = _plain(q[of], temperature, p), _plain(p[of], temperature, q)
            grads = formulas.pair_gradients(*z, kept[of], g[of], divergence.terms, skew)
            for out, grad in zip(outs, grads, strict=True):
                if out is not None:
                    out[of] = grad


def _kl_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    temperature: float,
    buffers: list[Tensor],
    outs: tuple[Tensor | None, Tensor | None],
) -> bool:
    q, b, c, p = buffers
    lq, lp, value = saved[:, :3].unbind(dim=-1)
    xq, xp = _read(zq, temperature, b), _read(zp, temperature, c)
    own = torch.empty_like(lq)
    _softmax(xq, q, own)
    weight_q = upstream * (own - lq).exp()
    out_q, out_p = outs
    log_ratio = torch.sub(xq, xp, out=b)
    if out_p is not None:
        _softmax(xp, p, own)
        p.mul_(_column(upstream * (own - lp).exp(), p))
    if not bool(torch.isfinite(log_ratio.sum())):
        return False
    q.mul_(_column(weight_q, q))
    if out_q is not None:
        torch.mul(q, log_ratio.add_(_column(lp - lq - value, q)), out=out_q)
    if out_p is not None:
        torch.sub(p, q, out=out_p)
    return True


def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``; the logits are z/T."""
    out = torch.empty((len(z), 3), dtype=wide(z[:0]).dtype, device=z.device)
    buffers = _Buffers(2, z)
    for at in rows_at_a_time(z):
        q, b = buffers.rows(at.stop - at.start)
        x = _read(z[at], temperature, b)
        own = out[at]
        mass = _normalised(x, q, own[:, 0])
        largest = x.amax(dim=-1)
        own[:, 2] = x.gather(-1, index[at].clamp(min=0)[:, None])[:, 0].where(index[at] >= 0, 0.0)
        torch.sub(x, largest[:, None], out=b)
        own[:, 1] = own[:, 0] - wide(largest) - wide(b.mul_(q).sum(dim=-1)) / mass
        if not bool(own[:, 1].isfinite().all()):
            for of in rows_at_a_time(x, share=MANY):
                own[of] = formulas.token_statistics(_plain(z[at][of], temperature), index[at][of])
    return out


def token_gradients(
    z: Tensor, index: Tensor, saved: Tensor, of_logprob: Tensor, of_entropy: Tensor, temperature: float, out: Tensor
) -> None:
    """See ``formulas.token_gradients``; written to out, which may be z itself."""
    buffers = _Buffers(2, z)
    for at in rows_at_a_time(z):
        q, b = buffers.rows(at.stop - at.start)
        x = _read(z[at], temperature, b)
        total, entropy = saved[at].unbind(dim=-1)
        g1, g2 = of_logprob[at].to(total.dtype), of_entropy[at].to(total.dtype)
        own = torch.empty_like(total)
        _softmax(x, q, own)
        inside = (own - total).exp()
        if bool(g2.any()):
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
                _plain(z[at], temperature), index[at], saved[at], of_logprob[at], of_entropy[at]
            )
