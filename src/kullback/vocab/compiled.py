"""The block kernels through torch.compile, which fuses the formulas' passes: worth its compile time in long jobs.

A fixed number of rows is compiled (a whole tensor would be read once a reduction); the rows that remain go
through ``eager``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kullback.vocab import eager, formulas
from kullback.vocab.formulas import DIVERGENCES, Divergence

TILE_BYTES = 1 << 21


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


def _split(z: Tensor) -> tuple[list[slice], slice]:
    """Slices of one fixed size, and what remains."""
    step = max(4, TILE_BYTES // (4 * max(1, z.shape[1])))
    whole = len(z) - len(z) % step
    return [slice(start, start + step) for start in range(0, whole, step)], slice(whole, len(z))


def _read(z: Tensor, temperature: Tensor, *others: Tensor) -> Tensor:
    dtype = eager.computed_in(z, *others)
    return z.to(dtype) / temperature.to(dtype)


def _pair_statistics(zq: Tensor, zp: Tensor, temperature: Tensor) -> Tensor:
    return formulas.pair_statistics(_read(zq, temperature, zp), _read(zp, temperature, zq))


def _pair_sums(zq: Tensor, zp: Tensor, normalisers: Tensor, temperature: Tensor, name: str, skew: float) -> Tensor:
    z = _read(zq, temperature, zp), _read(zp, temperature, zq)
    return formulas.pair_sums(*z, normalisers, DIVERGENCES[name].terms, skew)


def _pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    temperature: Tensor,
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


def _token_statistics(z: Tensor, index: Tensor, temperature: Tensor) -> Tensor:
    return formulas.token_statistics(_read(z, temperature), index)


def _token_gradients(
    z: Tensor, index: Tensor, saved: Tensor, g1: Tensor, g2: Tensor, temperature: Tensor, out: Tensor
) -> None:
    out.copy_(formulas.token_gradients(_read(z, temperature), index, saved, g1, g2))


@contextmanager
def _written(out: Tensor | None, at: slice, z: Tensor) -> Iterator[Tensor | None]:
    """Where a tile's gradient goes: to the result itself, or beside it where that is still being read."""
    if out is None or out.data_ptr() != z.data_ptr():
        yield None if out is None else out[at]
    else:
        beside = torch.empty_like(out[at])
        yield beside
        out[at] = beside


def _number(temperature: float, z: Tensor) -> Tensor:
    return torch.tensor(temperature, dtype=torch.float64, device=z.device)


def _by_rows(z: Tensor, kernel: Callable[[slice], Tensor], rest: Callable[[slice], Tensor]) -> Tensor:
    tiles, remainder = _split(z)
    return torch.cat([*(kernel(at) for at in tiles), rest(remainder)])


def pair_statistics(zq: Tensor, zp: Tensor, temperature: float) -> Tensor:
    """See ``formulas.pair_statistics``."""
    number = _number(temperature, zq)
    return _by_rows(
        zq,
        lambda at: _compiled(_pair_statistics)(zq[at], zp[at], number),
        lambda at: eager.pair_statistics(zq[at], zp[at], temperature),
    )


def pair_sums(
    zq: Tensor, zp: Tensor, normalisers: Tensor, divergence: Divergence, skew: float, temperature: float
) -> Tensor:
    """See ``formulas.pair_sums``."""
    number = _number(temperature, zq)
    return _by_rows(
        zq,
        lambda at: _compiled(_pair_sums)(zq[at], zp[at], normalisers[at], number, divergence.name, skew),
        lambda at: eager.pair_sums(zq[at], zp[at], normalisers[at], divergence, skew, temperature),
    )


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
    tiles, rest = _split(zq)
    number = _number(temperature, zq)
    for at in tiles:
        with _written(out_q, at, zq) as to_q, _written(out_p, at, zp) as to_p:
            rows = zq[at], zp[at], saved[at], upstream[at]
            _compiled(_pair_gradients)(*rows, number, divergence.name, skew, to_q, to_p)
    left = (None if out is None else out[rest] for out in (out_q, out_p))
    eager.pair_gradients(zq[rest], zp[rest], saved[rest], upstream[rest], divergence, skew, temperature, *left)


def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``."""
    number = _number(temperature, z)
    return _by_rows(
        z,
        lambda at: _compiled(_token_statistics)(z[at], index[at], number),
        lambda at: eager.token_statistics(z[at], index[at], temperature),
    )


def token_gradients(
    z: Tensor, index: Tensor, saved: Tensor, of_logprob: Tensor, of_entropy: Tensor, temperature: float, out: Tensor
) -> None:
    """See ``formulas.token_gradients``."""
    tiles, rest = _split(z)
    number = _number(temperature, z)
    for at in tiles:
        with _written(out, at, z) as to:
            _compiled(_token_gradients)(z[at], index[at], saved[at], of_logprob[at], of_entropy[at], number, to)
    eager.token_gradients(z[rest], index[rest], saved[rest], of_logprob[rest], of_entropy[rest], temperature, out[rest])
