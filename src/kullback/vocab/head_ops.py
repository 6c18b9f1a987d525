"""The fused forms as custom operators: logits are made, used and forgotten a block at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kullback.vocab import partition
from kullback.vocab.backends import kernels
from kullback.vocab.formulas import DIVERGENCES, wide
from kullback.vocab.heads import Gradients, Head, empty_like, tiles
from kullback.vocab.ops import check_tokens, local_index, plain_arithmetic, refuse_second_derivative


def heads(tensors: list[Tensor], biased: list[bool], numbers: list[float], rounded: bool) -> list[Head]:
    """Heads from what an operator is given: hidden, weight and bias of each, its scale and softcap."""
    rest = list(tensors)
    found = []
    for i, has_bias in enumerate(biased):
        hidden, weight = rest.pop(0), rest.pop(0)
        bias = rest.pop(0) if has_bias else None
        found.append(Head(hidden, weight, bias, numbers[2 * i], numbers[2 * i + 1], rounded))
    return found


@torch.library.custom_op("kullback::head_pair_statistics", mutates_args=())
def pair_statistics(
    tensors: list[Tensor], biased: list[bool], numbers: list[float], rounded: bool, workspace: int, backend: str
) -> Tensor:
    """(tokens, 3): see ``formulas.pair_statistics``; q's head, then p's."""
    q, p = heads(tensors, biased, numbers, rounded)
    kernel = kernels(backend)
    with plain_arithmetic(q.hidden):
        rows, columns = tiles(q, 2, workspace)
        parts = [
            torch.cat([kernel.pair_statistics(q.logits(at, across), p.logits(at, across), 1.0) for at in rows])
            for across in columns
        ]
        return partition.join_pairs(torch.stack(parts, dim=1))


@torch.library.custom_op("kullback::head_pair_sums", mutates_args=())
def pair_sums(
    tensors: list[Tensor],
    biased: list[bool],
    numbers: list[float],
    rounded: bool,
    workspace: int,
    backend: str,
    normalisers: Tensor,
    divergence: str,
    skew: float,
) -> Tensor:
    """(tokens, 3): see ``formulas.pair_sums``."""
    q, p = heads(tensors, biased, numbers, rounded)
    kernel = kernels(backend)
    with plain_arithmetic(q.hidden):
        rows, columns = tiles(q, 2, workspace)
        parts = [
            torch.cat(
                [
                    kernel.pair_sums(
                        q.logits(at, across), p.logits(at, across), normalisers[at], DIVERGENCES[divergence], skew, 1.0
                    )
                    for at in rows
                ]
            )
            for across in columns
        ]
        return partition.join_sums(torch.stack(parts, dim=1))


@torch.library.custom_op("kullback::head_pair_gradients", mutates_args=())
def pair_gradients(
    tensors: list[Tensor],
    biased: list[bool],
    numbers: list[float],
    rounded: bool,
    workspace: int,
    backend: str,
    saved: Tensor,
    upstream: Tensor,
    divergence: str,
    skew: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients to hidden, weight and bias of q, then of p; one that is not wanted is empty."""
    q, p = heads(tensors, biased, numbers, rounded)
    rows, columns = tiles(q, 2, workspace)
    of_q, of_p = Gradients(q, wanted[:3], rows, columns), Gradients(p, wanted[3:], rows, columns)
    want_q, want_p = any(wanted[:3]), any(wanted[3:])
    with plain_arithmetic(q.hidden):
        for across in columns:
            with of_q.over(across) as to_q, of_p.over(across) as to_p:
                for at in rows:
                    zq, zp = q.logits(at, across), p.logits(at, across)
                    slopes = q.slope(zq) if want_q else None, p.slope(zp) if want_p else None
                    kernels(backend).pair_gradients(
                        zq,
                        zp,
                        saved[at],
                        upstream[at],
                        DIVERGENCES[divergence],
                        skew,
                        1.0,
                        zq if want_q else None,
                        zp if want_p else None,
                    )
                    if want_p:
                        to_p(at, zp, slopes[1])
                    if want_q:
                        to_q(at, zq, slopes[0])
    return [*of_q.results(), *of_p.results()]


@torch.library.custom_op("kullback::head_token_statistics", mutates_args=())
def token_statistics(
    tensors: list[Tensor],
    biased: list[bool],
    numbers: list[float],
    rounded: bool,
    workspace: int,
    backend: str,
    tokens: Tensor,
    start: int,
    size: int,
) -> Tensor:
    """(tokens, 3): see ``formulas.token_statistics``."""
    check_tokens(tokens, size)
    (head,) = heads(tensors, biased, numbers, rounded)
    kernel = kernels(backend)
    with plain_arithmetic(head.hidden):
        rows, columns = tiles(head, 1, workspace)
        parts = [
            torch.cat(
                [
                    kernel.token_statistics(
                        head.logits(at, across),
                        local_index(tokens[at], start + across.start, across.stop - across.start),
                        1.0,
                    )
                    for at in rows
                ]
            )
            for across in columns
        ]
        return partition.join_tokens(torch.stack(parts, dim=1))


@torch.library.custom_op("kullback::head_token_gradients", mutates_args=())
def token_gradients(
    tensors: list[Tensor],
    biased: list[bool],
    numbers: list[float],
    rounded: bool,
    workspace: int,
    backend: str,
    tokens: Tensor,
    start: int,
    saved: Tensor,
    of_logprob: Tensor,
    of_entropy: Tensor,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients to hidden, weight and bias; one that is not wanted is empty."""
    (head,) = heads(tensors, biased, numbers, rounded)
    rows, columns = tiles(head, 1, workspace)
    gradients = Gradients(head, wanted, rows, columns)
    with plain_arithmetic(head.hidden):
        for across in columns:
            with gradients.over(across) as add:
                for at in rows:
                    z = head.logits(at, across)
                    slope = head.slope(z)
                    index = local_index(tokens[at], start + across.start, across.stop - across.start)
                    kernels(backend).token_gradients(z, index, saved[at], of_logprob[at], of_entropy[at], 1.0, z)
                    add(at, z, slope)
    return list(gradients.results())


def _statistics_like(tensors: list[Tensor], *_: object) -> Tensor:
    hidden = tensors[0]
    return torch.empty((len(hidden), 3), dtype=wide(hidden.new_empty(0)).dtype, device=hidden.device)


def gradients_like(tensors: list[Tensor], biased: list[bool], *rest: Any) -> list[Tensor]:
    """Empty tensors as ``Gradients.results`` returns them; ``wanted`` is an operator's last argument."""
    left, found, wanted = list(tensors), [], rest[-1]
    for i, has_bias in enumerate(biased):
        hidden, weight = left.pop(0), left.pop(0)
        bias = left.pop(0) if has_bias else hidden.new_empty(0)
        found += [empty_like(x, wanted[3 * i + k], torch.empty) for k, x in enumerate((hidden, weight, bias))]
    return found


for _operator in (pair_statistics, pair_sums, token_statistics):
    _operator.register_fake(_statistics_like)
for _operator in (pair_gradients, token_gradients):
    _operator.register_fake(gradients_like)
    refuse_second_derivative(_operator)
