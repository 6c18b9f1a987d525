"""The block kernels through torch.compile, which fuses the formulas' passes: worth its compile time in long jobs.

Statistics are those of blocks of ``BLOCK_WIDTH`` words, which stay in the cache from the first reduction over them to
the last; ``partition`` joins them. The number of rows is dynamic, so that a model compiles once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from kullback.vocab import eager, formulas, partition
from kullback.vocab.formulas import DIVERGENCES, Divergence, KlColumns
from kullback.vocab.kernels import Outputs

P = ParamSpec("P")
R = TypeVar("R")
Out = TypeVar("Out", Tensor, Tensor | None)

# Words of a block, whose 16 KB of float32 a row stay in the cache. Given a whole row, torch.compile makes a pass over
# the memory of every reduction: two maxima, two sums and the KL, five where one is enough. In blocks, with two
# exponentials a logit instead of four, the KL of 2,048 × 131,072 runs at 7.5 times the plain formula's speed.
BLOCK_WIDTH = 4096

# Of the gradients that are computed at a time beside the logits, where they are to overwrite them: 1 MB instead of as
# much memory as the logits take.
SLAB_BYTES = 1 << 20

# Of the logits whose blocks' statistics, 24 bytes each, are held before they are joined: 400 KB, where those of all
# blocks of 2,048 × 131,072 took 10 MB beside the gradient.
SWEPT_BYTES = 1 << 26

# Rows whose block is given to eager at a time: few, for the sweep rarely loses digits, and in few blocks of a batch.
MENDED_ROWS = 64


def _by_eager_otherwise(kernel: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Eager for what torch.compile would compile again: a single row, and more kinds of call than it keeps."""

    @wraps(kernel)
    def run(z: Tensor, /, *rest: P.args, **options: P.kwargs) -> R:
        if len(z) > 1:  # a dimension of 1 is never dynamic: tens of seconds to compile, for one row
            try:
                return kernel(z, *rest, **options)
            except torch._dynamo.exc.FailOnRecompileLimitHit:
                pass
        same: Callable[Concatenate[Tensor, P], R] = getattr(eager, kernel.__name__)
        return same(z, *rest, **options)

    return run


@cache
def _compiled(function: Callable[..., R]) -> Callable[..., R]:
    made: Callable[..., R] = torch.compile(function, dynamic=False, fullgraph=True, options=_fused_products())
    return made


def _fused_products() -> dict[str, str | int | bool | Callable[..., object]]:
    """The option that lets a product and a sum be one instruction, which rounds once."""
    from torch._inductor.config import cpp

    name = "enable_floating_point_contract_flag"
    now = getattr(cpp, name, None)  # a word since torch 2.6, yes or no before
    return {} if now is None else {f"cpp.{name}": "fast" if isinstance(now, str) else True}


def _call(function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """The compiled function's result."""
    # The number of rows alone is dynamic, or every last block of a batch would compile everything again.
    for x in (*args, *options.values()):
        if isinstance(x, Tensor) and x.ndim:
            torch._dynamo.mark_dynamic(x, 0)
    result: R = _compiled(function)(*args, **options)
    return result


def _number(temperature: float, z: Tensor) -> Tensor | None:
    """A tensor, so that another temperature compiles nothing; None is 1, and spares the divisions."""
    return None if temperature == 1.0 else torch.tensor(temperature, dtype=torch.float64, device=z.device)


def _blocks(z: Tensor) -> list[Tensor]:
    """Views (rows, blocks, words) of one width each."""
    whole = z.shape[1] - z.shape[1] % BLOCK_WIDTH
    rest = [z[:, None, whole:]] if whole < z.shape[1] else []
    return [torch.unflatten(z[:, :whole], 1, (-1, BLOCK_WIDTH)), *rest] if whole else rest


def _scaled(z: Tensor, temperature: Tensor | None, *others: Tensor) -> Tensor:
    z = z.to(eager.compute_dtype(z, *others))
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
def _written(out: Out, at: slice, z: Tensor) -> Iterator[Out]:
    """Where a slab's gradient goes: to the result itself, or beside it where that is still being read."""
    if out is None or not _inside(out, z):
        yield None if out is None else out[at]
    else:
        beside = torch.empty_like(out[at])
        yield beside
        out[at] = beside


def _pair_sweep(zq: Tensor, zp: Tensor, temperature: Tensor | None) -> Tensor:
    blocks = zip(_blocks(zq), _blocks(zp), strict=True)
    return torch.cat(
        [formulas.pair_sweep(_scaled(q, temperature, p), _scaled(p, temperature, q)) for q, p in blocks], 1
    )


def _difference_sweep(z: Tensor, d: Tensor, temperature: Tensor | None) -> Tensor:
    blocks = zip(_blocks(z), _blocks(d), strict=True)
    return torch.cat(
        [formulas.difference_sweep(_scaled(x, temperature, y), _scaled(y, temperature, x)) for x, y in blocks], 1
    )


def _pair_sums(
    zq: Tensor,
    zp: Tensor,
    normalisers: Tensor,
    *,
    temperature: Tensor | None,
    name: str,
    skew: float,
    difference: bool,
) -> Tensor:
    z = _scaled(zq, temperature, zp), _scaled(zp, temperature, zq)
    return formulas.pair_sums(*z, normalisers, terms=DIVERGENCES[name].terms, skew=skew, difference=difference)


def _pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    temperature: Tensor | None,
    name: str,
    skew: float,
    difference: bool,
    out_q: Tensor | None,
    out_p: Tensor | None,
) -> None:
    z = _scaled(zq, temperature, zp), _scaled(zp, temperature, zq)
    terms = DIVERGENCES[name].terms
    grads = formulas.pair_gradients(*z, saved, upstream, terms=terms, skew=skew, difference=difference)
    for out, grad in zip((out_q, out_p), grads, strict=True):
        if out is not None:
            out.copy_(grad)


def _kl_gradient(
    zq: Tensor, zp: Tensor, *columns: Tensor, temperature: Tensor | None, difference: bool, out: Tensor
) -> None:
    z = _scaled(zq, temperature, zp), _scaled(zp, temperature, zq)
    out.copy_(formulas.kl_gradient(*z, KlColumns(*columns), difference))


def _entropy_statistics(z: Tensor, temperature: Tensor | None) -> Tensor:
    return torch.cat([formulas.entropy_statistics(_scaled(block, temperature)) for block in _blocks(z)], 1)


def _gradients_without_token(
    z: Tensor, saved: Tensor, g1: Tensor, g2: Tensor, *, temperature: Tensor | None, out: Tensor
) -> None:
    out.copy_(formulas.gradients_without_token(_scaled(z, temperature), saved, g1, g2))


@_by_eager_otherwise
def pair_statistics(zq: Tensor, zp: Tensor, temperature: float, difference: bool = False) -> Tensor:
    """See ``formulas.pair_statistics``."""
    return torch.cat([_swept(zq[at], zp[at], temperature, difference) for at in _slabs(zq, SWEPT_BYTES)])


def _swept(zq: Tensor, zp: Tensor, temperature: float, difference: bool) -> Tensor:
    sweep = _difference_sweep if difference else _pair_sweep
    statistics = _call(sweep, zq, zp, _number(temperature, zq))
    # A block in which the one sweep would lose digits says nan; it alone goes through eager.
    lost = statistics.isnan().any(dim=-1)
    for block in lost.any(dim=0).nonzero()[:, 0].tolist():
        columns = slice(block * BLOCK_WIDTH, (block + 1) * BLOCK_WIDTH)
        for rows in torch.split(lost[:, block].nonzero()[:, 0], MENDED_ROWS):
            pair = zq[rows, columns], zp[rows, columns]
            statistics[rows, block] = eager.pair_statistics(*pair, temperature, difference)
    return partition.join_pairs(statistics)


@_by_eager_otherwise
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
    number = _number(temperature, zq)
    return _call(
        _pair_sums,
        zq,
        zp,
        normalisers,
        temperature=number,
        name=divergence.name,
        skew=divergence.skew,
        difference=difference,
    )


@_by_eager_otherwise
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
    out_q, out_p = outs
    number = _number(temperature, zq)
    if divergence.chains and out_q is not None and out_p is None:
        columns = KlColumns.of(saved, upstream, eager.compute_dtype(zq, zp), difference)
        _kl_gradients(zq, zp, columns, temperature=number, difference=difference, out=out_q)
        return
    for at in _slabs(zq, SLAB_BYTES if _inside(out_q, zq) or _inside(out_p, zp) else zq.nbytes):
        with _written(out_q, at, zq) as to_q, _written(out_p, at, zp) as to_p:
            _call(
                _pair_gradients,
                zq[at],
                zp[at],
                saved[at],
                upstream[at],
                temperature=number,
                name=divergence.name,
                skew=divergence.skew,
                difference=difference,
                out_q=to_q,
                out_p=to_p,
            )


def _kl_gradients(
    zq: Tensor, zp: Tensor, columns: KlColumns, *, temperature: Tensor | None, difference: bool, out: Tensor
) -> None:
    """The KL's to z_q alone, which is what a loss asks for."""
    # With the columns made of float64 beforehand, instead of in every vector of every row, the pass takes two thirds
    # of the time of the formulas as they stand.
    parts = [getattr(columns, field.name) for field in fields(columns)]
    for at in _slabs(zq, SLAB_BYTES if _inside(out, zq) else zq.nbytes):
        with _written(out, at, zq) as to:
            of_rows = (part[at] for part in parts)
            _call(_kl_gradient, zq[at], zp[at], *of_rows, temperature=temperature, difference=difference, out=to)


@_by_eager_otherwise
def token_statistics(z: Tensor, index: Tensor, temperature: float) -> Tensor:
    """See ``formulas.token_statistics``."""
    number = _number(temperature, z)
    statistics = torch.nn.functional.pad(_call(_entropy_statistics, z, number), (0, 1))
    # The token's logit is picked outside the sweep, whose blocks know no index.
    statistics[:, 0, 2] = _scaled(formulas.chosen_logits(z, index), number)
    return partition.join_tokens(statistics)


@_by_eager_otherwise
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
    # The token's own entry is written last, from its logit as it was before the gradient overwrote it.
    here = (index >= 0).nonzero()
    of = here[:, 0]
    chosen = z[here, index[here]]
    number = _number(temperature, z)
    for at in _slabs(z, SLAB_BYTES if _inside(out, z) else z.nbytes):
        with _written(out, at, z) as to:
            _call(
                _gradients_without_token,
                z[at],
                saved[at],
                of_logprob[at],
                of_entropy[at],
                temperature=number,
                out=to,
            )
    own = formulas.gradients_without_token(_scaled(chosen, number), saved[of], of_logprob[of], of_entropy[of])
    out[here, index[here]] = (own + of_logprob[of].to(own.dtype)[:, None]).to(out.dtype)
