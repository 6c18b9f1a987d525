"""Whole logits, block by block, as custom operators: opaque to torch.compile, autocast and checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor

from kullback.errors import InputError, KullbackError
from kullback.vocab.backends import block_kernels
from kullback.vocab.formulas import divergence_of, wide
from kullback.vocab.heads import empty_like
from kullback.vocab.operators import operator

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


class Context(Protocol):
    """What torch gives a ``torch.autograd.Function`` to remember things by; each adds what it keeps itself."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep inputs or outputs."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Outputs through which no gradient flows."""

    def set_materialize_grads(self, value: bool) -> None:
        """Whether a missing upstream gradient is zeros instead of None."""


def matrices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views (rows, columns) that cover tensors of one leading shape, without a copy of what is sliced."""
    if not tensors[0].shape[-1]:
        return
    # A slice without the last token, as trainers cut logits, has no such view in one piece, but one for each sequence;
    # a reshape would copy it: 20 GB for 8 × 4,096 tokens of 152,000 words.
    try:
        yield tuple(x.view(-1, x.shape[-1]) for x in tensors)
    except RuntimeError:
        for parts in zip(*(x.unbind(0) for x in tensors), strict=True):
            yield from matrices(*parts)


def differentiable(function: type[torch.autograd.Function], *args: object) -> Any:
    """``function.apply``, which torch leaves untyped."""
    return function.apply(*args)  # type: ignore[no-untyped-call]


def plain_arithmetic(z: Tensor) -> torch.autocast:
    """Autocast off: the dtype of a kernel is its own affair."""
    return torch.autocast(z.device.type, enabled=False)


def _rows(z: Tensor, *empty: float) -> Tensor:
    """Statistics of every row, filled with those of a block without columns."""
    start = wide(torch.tensor(empty, device=z.device, dtype=torch.float32))
    return start.expand(*z.shape[:-1], len(empty)).clone()


@operator("kullback::pair_statistics")
def pair_statistics(zq: Tensor, zp: Tensor, *, temperature: float, backend: str) -> Tensor:
    """(…, 3): see ``formulas.pair_statistics``."""
    out = _rows(zq, -math.inf, -math.inf, 0.0)
    with plain_arithmetic(zq):
        for q, p, into in matrices(zq, zp, out):
            into.copy_(block_kernels(backend).pair_statistics(q, p, temperature))
    return out


@operator("kullback::pair_sums")
def pair_sums(
    zq: Tensor, zp: Tensor, normalisers: Tensor, *, divergence: str, skew: float, temperature: float, backend: str
) -> Tensor:
    """(…, 3): see ``formulas.pair_sums``."""
    out = _rows(zq, 0.0, 0.0, 0.0)
    kernels, kind = block_kernels(backend), divergence_of(divergence, skew)
    with plain_arithmetic(zq):
        for q, p, n, into in matrices(zq, zp, normalisers, out):
            into.copy_(kernels.pair_sums(q, p, n, divergence=kind, temperature=temperature))
    return out


@torch.library.custom_op("kullback::pair_gradients", mutates_args=())
def pair_gradients(
    zq: Tensor,
    zp: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    divergence: str,
    skew: float,
    temperature: float,
    backend: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients to both logits; one that is not wanted is empty."""
    of_q, of_p = wanted
    grads = empty_like(zq, of_q), empty_like(zp, of_p)
    outs = grads[0] if of_q else zq, grads[1] if of_p else zp
    kernels, kind = block_kernels(backend), divergence_of(divergence, skew)
    with plain_arithmetic(zq):
        for q, p, s, g, to_q, to_p in matrices(zq, zp, saved, upstream[..., None], *outs):
            kernels.pair_gradients(
                q,
                p,
                s,
                g[:, 0],
                divergence=kind,
                temperature=temperature,
                outs=(to_q if of_q else None, to_p if of_p else None),
            )
    return grads


@operator("kullback::token_statistics")
def token_statistics(z: Tensor, tokens: Tensor, *, start: int, size: int, temperature: float, backend: str) -> Tensor:
    """(…, 3): see ``formulas.token_statistics``; columns start … of a vocabulary of that size."""
    check_tokens(tokens, size)
    out = _rows(z, -math.inf, 0.0, 0.0)
    with plain_arithmetic(z):
        for x, index, into in matrices(z, local_index(tokens, start, z.shape[-1])[..., None], out):
            into.copy_(block_kernels(backend).token_statistics(x, index[:, 0], temperature))
    return out


@torch.library.custom_op("kullback::token_gradients", mutates_args=())
def token_gradients(
    z: Tensor,
    tokens: Tensor,
    saved: Tensor,
    of_logprob: Tensor,
    of_entropy: Tensor,
    *,
    start: int,
    temperature: float,
    backend: str,
) -> Tensor:
    """The gradient to the logits."""
    grad = empty_like(z, wanted=True)
    index = local_index(tokens, start, z.shape[-1])
    with plain_arithmetic(z):
        for x, i, s, g1, g2, out in matrices(
            z, index[..., None], saved, of_logprob[..., None], of_entropy[..., None], grad
        ):
            block_kernels(backend).token_gradients(
                x, i[:, 0], s, of_logprob=g1[:, 0], of_entropy=g2[:, 0], temperature=temperature, out=out
            )
    return grad


def check_tokens(tokens: Tensor, size: int) -> None:
    """Every token is in the vocabulary; elsewhere than on a CPU the look would stall the device.

    Raises:
        InputError: one is not.
    """
    if tokens.device.type != "cpu" or not tokens.numel():  # on CUDA a wrong token's log-prob is nan instead
        return
    low, high = int(tokens.min()), int(tokens.max())
    if not 0 <= low <= high < size:
        raise InputError(
            f"tokens holds {low if low < 0 else high}, but the vocabulary has the ids 0 to {size - 1}: "
            "give padding any of them and leave it out with a mask"
        )


def local_index(tokens: Tensor, start: int, columns: int) -> Tensor:
    """Columns of the tokens in a block; −1 where a token is not in it."""
    index = tokens.long() - start
    return torch.where((index >= 0) & (index < columns), index, -1)


def _statistics_like(z: Tensor, *_: object, **__: object) -> Tensor:
    return _rows(z, 0.0, 0.0, 0.0)


@pair_gradients.register_fake
def _(zq: Tensor, zp: Tensor, *_: object, wanted: list[bool], **__: object) -> tuple[Tensor, Tensor]:
    of_q, of_p = wanted
    return empty_like(zq, of_q, torch.empty), empty_like(zp, of_p, torch.empty)


@token_gradients.register_fake
def _(z: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def refuse(*_: object) -> NoReturn:
    """What the derivative of a gradient is.

    Raises:
        KullbackError: always.
    """
    raise KullbackError(
        "the full-vocabulary kernels have first derivatives only: "
        "for a second one write the divergence out with torch.log_softmax"
    )


def refuse_second_derivative(operator: CustomOpDef) -> None:
    """Let a second derivative through a gradient operator fail with a sentence."""
    operator.register_autograd(refuse)


for _statistics in (pair_statistics, pair_sums, token_statistics):
    _statistics.custom.register_fake(_statistics_like)
for _operator in (pair_gradients, token_gradients):
    refuse_second_derivative(_operator)
