"""The weighted sums as custom operators: value and gradient from one sweep over whole rows of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kullback.vocab import partition, shards
from kullback.vocab.backends import kernels
from kullback.vocab.formulas import DIVERGENCES, Divergence, wide
from kullback.vocab.head_ops import gradients_like, heads
from kullback.vocab.heads import Gradients, Head, bands
from kullback.vocab.ops import check_tokens, local_index, plain_arithmetic, refuse_second_derivative
from kullback.vocab.products import slices

PARTS = 2
"""Of a block of rows, whose reference logits are held one at a time where they get no gradient."""


def _blocks(head: Head, models: float, workspace: int, group: Any) -> tuple[list[slice], slice]:
    """Blocks of rows, the same on every rank, and all columns of this one."""
    vocabulary = len(head.weight)
    return bands(head, models, workspace, shards.widest(vocabulary, group)), slice(0, vocabulary)


def _saved(zq: Tensor, zp: Tensor, kernel: Any, divergence: Divergence, skew: float, group: Any) -> Tensor:
    """What the gradient of whole rows needs, (rows, 5)."""
    saved = partition.saved_of_pairs(kernel.pair_statistics(zq, zp, 1.0), divergence, group)
    if divergence.chains:
        return saved
    return partition.saved_of_sums(saved, kernel.pair_sums(zq, zp, saved, divergence, skew, 1.0), group)


@torch.library.custom_op("kullback::weighted_pair", mutates_args=())
def weighted_pair(
    tensors: list[Tensor],
    biased: list[bool],
    numbers: list[float],
    rounded: bool,
    workspace: int,
    backend: str,
    weights: Tensor,
    divergence: str,
    skew: float,
    group_name: str,
    wanted: list[bool],
) -> list[Tensor]:
    """The divergence at every token, (tokens,), and the gradients of its weighted sum as ``head_pair_gradients``."""
    q, p = heads(tensors, biased, numbers, rounded)
    kind, kernel, group = DIVERGENCES[divergence], kernels(backend), shards.named(group_name)
    want_q, want_p = any(wanted[:3]), any(wanted[3:])
    parts = 1 if want_p else PARTS
    rows, columns = _blocks(q, 1 + 1 / parts, workspace, group)
    of_q, of_p = Gradients(q, wanted[:3], rows, [columns]), Gradients(p, wanted[3:], rows, [columns])
    values = wide(weights.new_zeros(len(q.hidden)))
    with plain_arithmetic(q.hidden), of_q.over(columns) as to_q, of_p.over(columns) as to_p:

        def make(at: slice, zq: Tensor) -> None:
            """The divergences of some rows; the logits become the gradients to them."""
            zp = p.logits(at, columns)
            saved = _saved(zq, zp, kernel, kind, skew, group)
            values[at] = saved[:, 2]
            slope = p.slope(zp) if want_p else None
            outs = zq if want_q else None, zp if want_p else None
            if want_q or want_p:
                kernel.pair_gradients(zq, zp, saved, weights[at], kind, skew, 1.0, *outs)
            if want_p:
                to_p(at, zp, slope)

        for block in rows:
            z = q.logits(block, columns)
            slope = q.slope(z) if want_q else None
            for part in slices(len(z), -(-len(z) // parts)):
                make(slice(block.start + part.start, block.start + part.stop), z[part])
            if want_q:
                to_q(block, z, slope)
    return [values, *of_q.results(), *of_p.results()]


@torch.library.custom_op("kullback::weighted_tokens", mutates_args=())
def weighted_tokens(
    tensors: list[Tensor],
    biased: list[bool],
    numbers: list[float],
    rounded: bool,
    workspace: int,
    backend: str,
    tokens: Tensor,
    start: int,
    size: int,
    weights: Tensor,
    entropy_weights: Tensor,
    group_name: str,
    wanted: list[bool],
) -> list[Tensor]:
    """(tokens, 3) as ``token_statistics``, and the gradients of the weighted sum of log-probs and entropies."""
    check_tokens(tokens, size)
    (head,) = heads(tensors, biased, numbers, rounded)
    kernel, group = kernels(backend), shards.named(group_name)
    rows, columns = _blocks(head, 1, workspace, group)
    gradients = Gradients(head, wanted, rows, [columns])
    saved = wide(weights.new_zeros((len(head.hidden), 3)))
    with plain_arithmetic(head.hidden), gradients.over(columns) as add:
        for at in rows:
            z = head.logits(at, columns)
            index = local_index(tokens[at], start, columns.stop)
            saved[at] = shards.joined(kernel.token_statistics(z, index, 1.0), partition.join_tokens, group)
            slope = head.slope(z)
            if any(wanted):
                kernel.token_gradients(z, index, saved[at, :2], weights[at], entropy_weights[at], 1.0, z)
                add(at, z, slope)
    return [saved, *gradients.results()]


@weighted_pair.register_fake
def _(tensors: list[Tensor], *rest: Any) -> list[Tensor]:
    return [wide(tensors[0].new_empty(len(tensors[0]))), *gradients_like(tensors, *rest)]


@weighted_tokens.register_fake
def _(tensors: list[Tensor], *rest: Any) -> list[Tensor]:
    return [wide(tensors[0].new_empty((len(tensors[0]), 3))), *gradients_like(tensors, *rest)]


for _operator in (weighted_pair, weighted_tokens):
    refuse_second_derivative(_operator)
