"""The block kernels in Triton, for CUDA; on a CPU they run in Triton's interpreter (``TRITON_INTERPRET=1``).

A row is split over programs when there are few rows; each walks its tiles of columns once, lane by lane,
and the splits are joined by the chain rule of ``partition``. Where one sweep would lose digits (banned words, logits
that overflow around the first tile's), the program walks its tiles again, each with its own normalisers, so that no
term cancels. Float64 goes through ``eager``.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kullback.vocab import eager, partition
from kullback.vocab.formulas import Divergence
from kullback.vocab.kernels import Outputs
from kullback.vocab.triton_math import (
    around_the_mean,
    finite,
    from_difference,
    gap,
    log1p,
    log_add,
    log_distributions,
    log_sum,
    logprobs_of,
    mass_times,
    near_gap,
    read,
    terms,
    wide_gap,
)

# Columns of a tile, which a program holds in registers: 128 threads have 16 of them each of every array that is alive.
# Whole rows, 65,536 words in some libraries, spill to memory. ``benchmarks.gpu`` tries 1,024 to 16,384.
BLOCK = 2048

# Programs that keep a device busy, about 15 for each of an H200's 132 multiprocessors. Rows are split until there are
# so many: one row of 131,072 words gets 32 programs instead of one, and a batch of 2,048 rows is not split.
PROGRAMS = 2048

# Threads of a program, by 32.
WARPS = 4


@triton.jit
def _careful_pair(zq, zp, row, split, columns, stride_q, stride_p, temperature, width, DIFFERENCE, BLOCK: tl.constexpr):
    """(lq, lp, KL) tile by tile, each with its own normalisers: whatever the logits are."""
    lq = tl.full((), float("-inf"), tl.float64)
    lp = tl.full((), float("-inf"), tl.float64)
    kl = tl.full((), 0.0, tl.float64)
    stop = tl.minimum(columns, (split + 1) * width)
    for start in range(split * width, stop, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        q = read(zq, stop, stride_q, row, offsets, temperature)
        p = read(zp, stop, stride_p, row, offsets, temperature)
        shift_q, sum_q = log_sum(q)
        own_q = shift_q + sum_q
        if DIFFERENCE:
            p = tl.where(offsets < stop, p, 0.0)
            shift_p, sum_p = log_sum(q - p)
            own_p = shift_p + sum_p
            a, b, log_ratio = from_difference(q, p, finite(own_q), finite(own_p))
            inside = tl.sum(gap(a, b, log_ratio), axis=0).to(tl.float64)
            near_p, near = around_the_mean(q, p, own_q)
            own_p = tl.where(near < 30.0, near_p, own_p)
            inside = tl.where(near < 30.0, near, inside)
        else:
            shift_p, sum_p = log_sum(p)
            own_p = shift_p + sum_p
            a, b, log_ratio = log_distributions(q, p, finite(own_q), finite(own_p))
            inside = tl.sum(gap(a, b, log_ratio), axis=0).to(tl.float64)
        empty = (own_q == float("-inf")) | (own_p == float("-inf"))
        inside = tl.where(empty, 0.0, inside)
        new_q, new_p = log_add(lq, own_q), log_add(lp, own_p)
        a_old, b_old = lq - finite(new_q), lp - finite(new_p)
        a_own, b_own = own_q - finite(new_q), own_p - finite(new_p)
        kl = (
            mass_times(tl.exp(a_old), kl)
            + mass_times(tl.exp(a_own), inside)
            + wide_gap(a_old, b_old)
            + wide_gap(a_own, b_own)
        )
        kl = tl.where((new_q == float("-inf")) | (new_p == float("-inf")), 0.0, kl)
        lq, lp = new_q, new_p
    return lq, lp, kl


@triton.jit
def _pair_kernel(
    zq, zp, out, columns, stride_q, stride_p, temperature, width, DIFFERENCE: tl.constexpr, BLOCK: tl.constexpr
):
    # One sweep, as ``formulas.pair_sweep``, around the largest logit and the mean difference of the first tile. Every
    # lane adds up its own columns, and nothing crosses lanes before the end: a tile with its own normalisers costs ten
    # float64 logarithms and exponentials in every thread, three times as much as all else.
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    stop = tl.minimum(columns, (split + 1) * width)
    offsets = split * width + tl.arange(0, BLOCK)
    q = read(zq, stop, stride_q, row, offsets, temperature)
    p = read(zp, stop, stride_p, row, offsets, temperature)
    top = tl.max(q, axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    mass = tl.exp(q - top)
    d = p if DIFFERENCE else q - p
    centre = tl.sum(mass_times(mass, d), axis=0) / tl.sum(mass, axis=0)
    centre = tl.where(tl.abs(centre) < 1e30, centre, 0.0)  # of a tile that is banned: any other serves
    total = tl.zeros((BLOCK,), tl.float32)
    expected = tl.zeros((BLOCK,), tl.float32)
    gaps = tl.zeros((BLOCK,), tl.float32)
    for start in range(split * width, stop, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        q = read(zq, stop, stride_q, row, offsets, temperature) - top
        p = read(zp, stop, stride_p, row, offsets, temperature)
        mass = tl.exp(q)
        if DIFFERENCE:
            x = p - centre
            other = tl.exp(q - tl.where(offsets < stop, x, 0.0))
        else:
            x = (q - (p - top)) - centre
            other = tl.exp((p - top) + centre)
        here = mass_times(mass, x)
        total += mass
        expected += here
        near = tl.abs(x) < 0.5
        gaps += tl.where(near, mass * near_gap(tl.where(near, -x, 0.0)), other - mass + here)
    whole = tl.sum(total.to(tl.float64), axis=0)
    inside = tl.sum(gaps.to(tl.float64), axis=0) / whole
    delta = inside - tl.sum(expected.to(tl.float64), axis=0) / whole
    log_other = log1p(delta)
    excess = delta - log_other
    kl = inside - excess
    lq = top.to(tl.float64) + tl.log(whole)
    lp = lq - centre.to(tl.float64) + log_other
    kept = (excess <= 8.0 * kl + 1e-10) & (whole > 0.0) & (whole < float("inf")) & (kl < 30.0)
    if kept == 0:
        lq, lp, kl = _careful_pair(
            zq, zp, row, split, columns, stride_q, stride_p, temperature, width, DIFFERENCE, BLOCK
        )
    at = out + (row * tl.num_programs(1) + split) * 3
    tl.store(at, lq)
    tl.store(at + 1, lp)
    tl.store(at + 2, tl.where(kl < 0.0, 0.0, kl))


@triton.jit
def _sums_kernel(
    zq,
    zp,
    normalisers,
    out,
    columns,
    stride_q,
    stride_p,
    temperature,
    width,
    log_keep,
    log_skew,
    KIND: tl.constexpr,
    DIFFERENCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lq = finite(tl.load(normalisers + row * 2))
    lp = finite(tl.load(normalisers + row * 2 + 1))
    value = tl.full((), 0.0, tl.float64)
    of_a = tl.full((), 0.0, tl.float64)
    of_b = tl.full((), 0.0, tl.float64)
    stop = tl.minimum(columns, (split + 1) * width)
    for start in range(split * width, stop, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        q = read(zq, stop, stride_q, row, offsets, temperature)
        p = read(zp, stop, stride_p, row, offsets, temperature)
        if DIFFERENCE:
            a, b, log_ratio = from_difference(q, tl.where(offsets < stop, p, 0.0), lq, lp)
        else:
            a, b, log_ratio = log_distributions(q, p, lq, lp)
        d, da, db = terms(a, b, log_ratio, log_keep, log_skew, KIND)
        value += tl.sum(d, axis=0).to(tl.float64)
        of_a += tl.sum(da, axis=0).to(tl.float64)
        of_b += tl.sum(db, axis=0).to(tl.float64)
    at = out + (row * tl.num_programs(1) + split) * 3
    tl.store(at, value)
    tl.store(at + 1, of_a)
    tl.store(at + 2, of_b)


@triton.jit
def _pair_gradients_kernel(
    zq,
    zp,
    saved,
    upstream,
    out_q,
    out_p,
    columns,
    stride_q,
    stride_p,
    to_q,
    to_p,
    temperature,
    log_keep,
    log_skew,
    KIND: tl.constexpr,
    DIFFERENCE: tl.constexpr,
    OF_Q: tl.constexpr,
    OF_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lq = finite(tl.load(saved + row * 5))
    lp = finite(tl.load(saved + row * 5 + 1))
    value = tl.load(saved + row * 5 + 2)
    sum_a = tl.load(saved + row * 5 + 3).to(tl.float32)
    sum_b = tl.load(saved + row * 5 + 4).to(tl.float32)
    g = tl.load(upstream + row).to(tl.float32)
    q = read(zq, columns, stride_q, row, offsets, temperature)
    p = read(zp, columns, stride_p, row, offsets, temperature)
    if DIFFERENCE:
        a, b, log_ratio = from_difference(q, tl.where(offsets < columns, p, 0.0), lq, lp)
    else:
        a, b, log_ratio = log_distributions(q, p, lq, lp)
    _, of_a, of_b = terms(a, b, log_ratio, log_keep, log_skew, KIND)
    allowed = value != float("inf")
    inside = offsets < columns
    if OF_Q:
        grad = tl.where(allowed, g * (of_a - tl.exp(a) * sum_a), 0.0)
        tl.store(out_q + row * to_q + offsets, grad.to(out_q.dtype.element_ty), mask=inside)
    if OF_P:
        grad = tl.where(allowed, g * (of_b - tl.exp(b) * sum_b), 0.0)
        tl.store(out_p + row * to_p + offsets, grad.to(out_p.dtype.element_ty), mask=inside)


@triton.jit
def _careful_token(z, row, split, columns, stride, temperature, width, BLOCK: tl.constexpr):
    """(log Σe^z, entropy) tile by tile, each with its own normaliser: whatever the logits are."""
    total = tl.full((), float("-inf"), tl.float64)
    entropy = tl.full((), 0.0, tl.float64)
    stop = tl.minimum(columns, (split + 1) * width)
    for start in range(split * width, stop, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = read(z, stop, stride, row, offsets, temperature)
        shift, own_sum = log_sum(x)
        below = x - shift
        mean = tl.sum(mass_times(tl.exp(below), below), axis=0).to(tl.float64) / tl.exp(own_sum)
        own = shift + own_sum
        inside = tl.where(own == float("-inf"), 0.0, own_sum - mean)
        new = log_add(total, own)
        a_old, a_own = total - finite(new), own - finite(new)
        entropy = mass_times(tl.exp(a_old), entropy - a_old) + mass_times(tl.exp(a_own), inside - a_own)
        total = new
    return total, entropy


@triton.jit
def _token_kernel(z, index, out, columns, stride, temperature, width, BLOCK: tl.constexpr):
    # One sweep around the largest logit of the first tile, as in ``_pair_kernel``.
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    stop = tl.minimum(columns, (split + 1) * width)
    wanted = tl.load(index + row)
    here = (wanted >= split * width) & (wanted < stop)
    chosen = tl.load(z + row * stride + wanted, mask=here, other=0.0).to(tl.float32) / temperature
    top = tl.max(read(z, stop, stride, row, split * width + tl.arange(0, BLOCK), temperature), axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    masses = tl.zeros((BLOCK,), tl.float32)
    expected = tl.zeros((BLOCK,), tl.float32)
    for start in range(split * width, stop, BLOCK):
        x = read(z, stop, stride, row, start + tl.arange(0, BLOCK), temperature) - top
        mass = tl.exp(x)
        masses += mass
        expected += mass_times(mass, x)
    whole = tl.sum(masses.to(tl.float64), axis=0)
    log_whole = tl.log(whole)
    total = top.to(tl.float64) + log_whole
    entropy = log_whole - tl.sum(expected.to(tl.float64), axis=0) / whole
    if ((whole > 0.0) & (whole < float("inf"))) == 0:
        total, entropy = _careful_token(z, row, split, columns, stride, temperature, width, BLOCK)
    at = out + (row * tl.num_programs(1) + split) * 3
    tl.store(at, total)
    tl.store(at + 1, entropy)
    tl.store(at + 2, chosen.to(tl.float64))


@triton.jit
def _token_gradients_kernel(
    z, index, saved, of_logprob, of_entropy, out, columns, stride, to, temperature, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(saved + row * 2)
    entropy = tl.load(saved + row * 2 + 1).to(tl.float32)
    g1 = tl.load(of_logprob + row).to(tl.float32)
    g2 = tl.load(of_entropy + row).to(tl.float32)
    logs = logprobs_of(read(z, columns, stride, row, offsets, temperature), total)
    grad = -mass_times(tl.exp(logs), g1 + g2 * (logs + entropy))
    grad += tl.where(offsets == tl.load(index + row), g1, 0.0)
    tl.store(out + row * to + offsets, grad.to(out.dtype.element_ty), mask=offsets < columns)


def _rows(z: Tensor) -> Tensor:
    """Columns next to each other, as the kernels read them."""
    return z if z.stride(-1) == 1 else z.contiguous()


def _splits(rows: int, columns: int) -> tuple[int, int]:
    """Programs a row, and the columns of each."""
    tiles = triton.cdiv(max(columns, 1), BLOCK)
    splits = min(tiles, triton.cdiv(PROGRAMS, max(rows, 1)))
    width = triton.cdiv(tiles, splits) * BLOCK
    return triton.cdiv(columns, width), width


def _mixture_logs(divergence: Divergence) -> tuple[float, float]:
    """log(1 − s) and log s of the mixture; the plain KL has none."""
    share = 0.5 if divergence.name == "jensen_shannon" else divergence.skew
    return (math.log1p(-share), math.log(share)) if share < 1 else (0.0, 0.0)


def pair_statistics(zq: Tensor, zp: Tensor, temperature: float, difference: bool = False) -> Tensor:
    """See ``formulas.pair_statistics``."""
    if torch.float64 in (zq.dtype, zp.dtype) or not len(zq):
        return eager.pair_statistics(zq, zp, temperature, difference)
    zq, zp = _rows(zq), _rows(zp)
    splits, width = _splits(*zq.shape)
    out = torch.empty((len(zq), splits, 3), dtype=torch.float64, device=zq.device)
    numbers = zq.shape[1], zq.stride(0), zp.stride(0), temperature, width
    _pair_kernel[(len(zq), splits)](zq, zp, out, *numbers, DIFFERENCE=difference, BLOCK=BLOCK, num_warps=WARPS)
    return out[:, 0] if splits == 1 else partition.join_pairs(out)


def pair_sums(
    zq: Tensor,
    zp: Tensor,
    normalisers: Tensor,
    *,
    divergence: Divergence,
    temperature: float,
    difference: bool = False,
) -> Tensor:
    """See ``formulas.pair_sums``."""
    if torch.float64 in (zq.dtype, zp.dtype) or not len(zq):
        return eager.pair_sums(
            zq, zp, normalisers, divergence=divergence, temperature=temperature, difference=difference
        )
    zq, zp = _rows(zq), _rows(zp)
    splits, width = _splits(*zq.shape)
    out = torch.empty((len(zq), splits, 3), dtype=torch.float64, device=zq.device)
    _sums_kernel[(len(zq), splits)](
        zq,
        zp,
        normalisers.contiguous(),
        out,
        zq.shape[1],
        zq.stride(0),
        zp.stride(0),
        temperature,
        width,
        *_mixture_logs(divergence),
        KIND=divergence.name,
        DIFFERENCE=difference,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return partition.join_sums(out)


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
    """See ``formulas.pair_gradients``."""
    if torch.float64 in (zq.dtype, zp.dtype) or not len(zq):
        eager.pair_gradients(
            zq,
            zp,
            saved,
            upstream,
            divergence=divergence,
            temperature=temperature,
            outs=outs,
            difference=difference,
        )
        return
    out_q, out_p = outs
    zq, zp = _rows(zq), _rows(zp)
    to_q, to_p = zq if out_q is None else out_q, zp if out_p is None else out_p
    _pair_gradients_kernel[(len(zq), triton.cdiv(zq.shape[1], BLOCK))](
        zq,
        zp,
        saved.contiguous(),
        upstream.contiguous(),
        to_q,
        to_p,
        zq.shape[1],
        zq.stride(0),
        zp.stride(0),
        to_q.stride(0),
        to_p.stride(0),
        temperature,
        *_mixture_logs(divergence),
        KIND=divergence.name,
        DIFFERENCE=difference,
        OF_Q=out_q is not None,
        OF_P=out_p is not None,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``."""
    if z.dtype == torch.float64 or not len(z):
        return eager.token_statistics(z, index, temperature)
    z = _rows(z)
    splits, width = _splits(*z.shape)
    out = torch.empty((len(z), splits, 3), dtype=torch.float64, device=z.device)
    _token_kernel[(len(z), splits)](
        z, index.contiguous(), out, z.shape[1], z.stride(0), temperature, width, BLOCK=BLOCK, num_warps=WARPS
    )
    return out[:, 0] if splits == 1 else partition.join_tokens(out)


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
    """See ``formulas.token_gradients``."""
    if z.dtype == torch.float64 or not len(z):
        eager.token_gradients(
            z,
            index,
            saved,
            of_logprob=of_logprob,
            of_entropy=of_entropy,
            temperature=temperature,
            out=out,
        )
        return
    z = _rows(z)
    numbers = (x.contiguous() for x in (index, saved, of_logprob, of_entropy))
    _token_gradients_kernel[(len(z), triton.cdiv(z.shape[1], BLOCK))](
        z, *numbers, out, z.shape[1], z.stride(0), out.stride(0), temperature, BLOCK=BLOCK, num_warps=WARPS
    )
