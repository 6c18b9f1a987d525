"""The block kernels through torch.compile, which fuses the formulas' passes: worth its compile time in long jobs.

A fixed number of rows is compiled (a whole tensor would be read once a reduction); the rows that remain go
through ``eager``.
"""

from __future__ import annotations

from collections.abc import Callable
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
    zq: Tensor, zp: Tensor, saved: Tensor, upstream: Tensor, temperature: Tensor, name: str, skew: float, of_p: bool
) -> tuple[Tensor, ...]:
    z = _read(zq, temperature, zp), _read(zp, temperature, zq)
    grads = formulas.pair_gradients(*z, saved, upstream, DIVERGENCES[name].terms, skew)
    return tuple(grad.to(z.dtype) for grad, z in zip(grads if of_p else grads[:1], (zq, zp), strict=False))


def _token_statistics(z: Tensor, index: Tensor, temperature: Tensor) -> Tensor:
    return formulas.token_statistics(_read(z, temperature), index)


def _token_gradients(z: Tensor, index: Tensor, saved: Tensor, g1: Tensor, g2: Tensor, temperature: Tensor) -> Tensor:
    return formulas.token_gradients(_read(z, temperature), index, saved, g1, g2).to(z.dtype)


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
    outs = (out_q,) if out_p is None else (out_q, out_p)
    for at in tiles:
        grads = _compiled(_pair_gradients)(
            zq[at], zp[at], saved[at], upstream[at], number, divergence.name, skew, len(outs) == 2
        )
        for out, grad in zip(outs, grads, strict=True):
            if out is not None:
                out[at] = grad
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
        out[at] = _compiled(_token_gradients)(z[at], index[at], saved[at], of_logprob[at], of_entropy[at], number)
    eager.token_gradients(z[rest], index[rest], saved[rest], of_logprob[rest], of_entropy[rest], temperature, out[rest])
