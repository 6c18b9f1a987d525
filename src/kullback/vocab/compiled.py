"""The block kernels through torch.compile, which fuses the formulas' passes: worth its compile time in long jobs.

Statistics are those of blocks of ``WIDTH`` words, which stay in the cache from the first reduction over them to
the last; ``partition`` joins them. The number of rows is dynamic, so that a model compiles once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from kullback.vocab import eager, formulas, partition
from kullback.vocab.formulas import DIVERGENCES, Divergence

WIDTH = 4096
SLAB_BYTES = 1 << 20
"""Of the gradients that are computed at a time beside the logits, where they are to overwrite them."""
SWEPT_BYTES = 1 << 26
"""Of the logits whose blocks' statistics, 24 bytes each, are held before they are joined."""
MENDED = 64
"""Rows whose block is given to eager at a time."""


def _by_eager_otherwise(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Eager for what torch.compile would compile again: a single row, and more kinds of call than it keeps."""

    @wraps(kernel)
    def run(z: Tensor, *rest: Any) -> Any:
        if len(z) > 1:
            try:
                return kernel(z, *rest)
            except torch._dynamo.exc.FailOnRecompileLimitHit:
                pass
        return getattr(eager, kernel.__name__)(z, *rest)

    return run


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False, fullgraph=True)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    for x in args:
        if isinstance(x, Tensor) and x.ndim:
            torch._dynamo.mark_dynamic(x, 0)
    return _compiled(function)(*args)


def _number(temperature: float, z: Tensor) -> Tensor | None:
    """A tensor, so that another temperature compiles nothing; None is 1, and spares the divisions."""
    return None if temperature == 1.0 else torch.tensor(temperature, dtype=torch.float64, device=z.device)


def _blocks(z: Tensor) -> list[Tensor]:
    """Views (rows, blocks, words) of one width each."""
    whole = z.shape[1] - z.shape[1] % WIDTH
    rest = [z[:, None, whole:]] if whole < z.shape[1] else []
    return [torch.unflatten(z[:, :whole], 1, (-1, WIDTH)), *rest] if whole else rest


def _read(z: Tensor, temperature: Tensor | None, *others: Tensor) -> Tensor:
    z = z.to(eager.computed_in(z, *others))
    return z if temperature is None else z / temperature.to(z.dtype)


def _slabs(z: Tensor, size: int) -> Iterator[slice]:
    """Even slices of the rows, of so many bytes at most and of more than one row."""
    rows, columns = z.shape
    count = max(1, min(rows // 2, -(-rows * columns * z.dtype.itemsize // size)))
    for i in range(count):
        yield slice(rows * i // count, rows * (i + 1) // count)


def _inside(out: Tensor | None, z: Tensor) -> bool:
    """Whether a gradient is to overwrite its logits."""
    return out is not None and out.data_ptr() == z.data_ptr()


@contextmanager
def _written(out: Tensor | None, at: slice, z: Tensor) -> Iterator[Tensor | None]:
    """Where a slab's gradient goes: to the result itself, or beside it where that is still being read."""
    if out is None or not _inside(out, z):
        yield None if out is None else out[at]
    else:
        beside = torch.empty_like(out[at])
        yield beside
        out[at] = beside


def _pair_sweep(zq: Tensor, zp: Tensor, temperature: Tensor | None) -> Tensor:
    blocks = zip(_blocks(zq), _blocks(zp), strict=True)
    return torch.cat([formulas.pair_sweep(_read(q, temperature, p), _read(p, temperature, q)) for q, p in blocks], 1)


def _pair_sums(
    zq: Tensor, zp: Tensor, normalisers: Tensor, temperature: Tensor | None, name: str, skew: float
) -> Tensor:
    z = _read(zq, temperature, zp), _read(zp, temperature, zq)
    return formulas.pair_sums(*z, normalisers, DIVERGENCES[name].terms, skew)


def _pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    temperature: Tensor | None,
    name: str,
    skew: float,
    out_q: Tensor | None,
    out_p: Tensor | None,
) -> None:
    z = _read(zq, temperature, zp), _read(zp, temperature, zq)
    grads = formulas.pair_gradients(*z, saved, upstream, DIVERGENCES[name].terms, skew)
    for out, grad in zip((out_q, out_p), grads, strict=True):
        if out is not None:
            out.copy_(grad)


def _spread(z: Tensor, temperature: Tensor | None) -> Tensor:
    return torch.cat([formulas.spread(_read(block, temperature)) for block in _blocks(z)], 1)


def _spread_gradients(
    z: Tensor, saved: Tensor, g1: Tensor, g2: Tensor, temperature: Tensor | None, out: Tensor
) -> None:
    out.copy_(formulas.spread_gradients(_read(z, temperature), saved, g1, g2))


@_by_eager_otherwise
def pair_statistics(zq: Tensor, zp: Tensor, temperature: float) -> Tensor:
    """See ``formulas.pair_statistics``."""
    return torch.cat([_swept(zq[at], zp[at], temperature) for at in _slabs(zq, SWEPT_BYTES)])


def _swept(zq: Tensor, zp: Tensor, temperature: float) -> Tensor:
    found = _call(_pair_sweep, zq, zp, _number(temperature, zq))
    lost = found.isnan().any(dim=-1)
    for block in lost.any(dim=0).nonzero()[:, 0].tolist():
        columns = slice(block * WIDTH, (block + 1) * WIDTH)
        for rows in lost[:, block].nonzero()[:, 0].split(MENDED):
            found[rows, block] = eager.pair_statistics(zq[rows, columns], zp[rows, columns], temperature)
    return partition.join_pairs(found)


@_by_eager_otherwise
def pair_sums(
    zq: Tensor, zp: Tensor, normalisers: Tensor, divergence: Divergence, skew: float, temperature: float
) -> Tensor:
    """See ``formulas.pair_sums``."""
    found: Tensor = _call(_pair_sums, zq, zp, normalisers, _number(temperature, zq), divergence.name, skew)
    return found


@_by_eager_otherwise
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
    """See ``formulas.pair_gradients``."""
    number = _number(temperature, zq)
    for at in _slabs(zq, SLAB_BYTES if _inside(out_q, zq) or _inside(out_p, zp) else zq.nbytes):
        with _written(out_q, at, zq) as to_q, _written(out_p, at, zp) as to_p:
            rows = zq[at], zp[at], saved[at], upstream[at]
            _call(_pair_gradients, *rows, number, divergence.name, skew, to_q, to_p)


@_by_eager_otherwise
def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``."""
    number = _number(temperature, z)
    found = torch.nn.functional.pad(_call(_spread, z, number), (0, 1))
    found[:, 0, 2] = _read(formulas.chosen(z, index), number)
    return partition.join_tokens(found)


@_by_eager_otherwise
def token_gradients(
    z: Tensor, index: Tensor, saved: Tensor, of_logprob: Tensor, of_entropy: Tensor, temperature: float, out: Tensor
) -> None:
    """See ``formulas.token_gradients``."""
    here = (index >= 0).nonzero()
    of = here[:, 0]
    chosen = z[here, index[here]]
    number = _number(temperature, z)
    for at in _slabs(z, SLAB_BYTES if _inside(out, z) else z.nbytes):
        with _written(out, at, z) as to:
            _call(_spread_gradients, z[at], saved[at], of_logprob[at], of_entropy[at], number, to)
    own = formulas.spread_gradients(_read(chosen, number), saved[of], of_logprob[of], of_entropy[of])
    out[here, index[here]] = (own + of_logprob[of].to(own.dtype)[:, None]).to(out.dtype)
