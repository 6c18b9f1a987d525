"""Log-ratios of drawn tokens from two heads as custom operators: all statistics of a block while it is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kullback.vocab import partition
from kullback.vocab.backends import block_kernels
from kullback.vocab.formulas import DIVERGENCES, chosen_logits, wide
from kullback.vocab.head_ops import PLAN, every_block, gradients_like, head_operator, pair_of
from kullback.vocab.heads import HeadGradients, HeadPlan, tiles
from kullback.vocab.ops import check_tokens, local_index, plain_arithmetic

if TYPE_CHECKING:
    from kullback.vocab.kernels import BlockKernels, Outputs
    from kullback.vocab.pairs import HeadPair

# Blocks of logits that are held together: two models' and the gradients to them.
HELD = 4


def join_log_ratios(blocks: Tensor) -> Tensor:
    """(rows, blocks, 6) → (rows, 6): normalisers, KL, entropy, the token's logit and its difference."""
    pairs = partition.join_pairs(blocks[..., :3])
    tokens = partition.join_tokens(blocks[..., (0, 3, 4)])
    return torch.cat([pairs, tokens[:, 1:], blocks[..., 5].sum(dim=-1, keepdim=True)], dim=-1)


def _statistics_like(tensors: list[Tensor], *_: object, **__: object) -> Tensor:
    return wide(tensors[0].new_empty((len(tensors[0]), 6), dtype=torch.float32))


@head_operator(
    f"head_log_ratio_statistics(Tensor[] tensors, Tensor tokens, *, {PLAN}, int start, int size) -> Tensor",
    _statistics_like,
)
def log_ratio_statistics(tensors: list[Tensor], plan: HeadPlan, tokens: Tensor, *, start: int, size: int) -> Tensor:
    """(tokens, 6): see ``join_log_ratios``; q's head, then p's."""
    check_tokens(tokens, size)
    pair, kernels = pair_of(tensors, plan), block_kernels(plan.backend)

    def of_block(at: slice, across: slice) -> Tensor:
        z, second, _ = pair.block(pair.q.uncapped(at, across), at, across, slope=False)
        index = local_index(tokens[at], start + across.start, across.stop - across.start)
        of_pair = kernels.pair_statistics(z, second, 1.0, pair.difference)
        of_tokens = kernels.token_statistics(z, index, 1.0)
        chosen = wide(chosen_logits(second, index))
        apart = chosen if pair.difference else torch.where(index >= 0, of_tokens[:, 2] - chosen, 0.0)
        return torch.cat([of_pair, of_tokens[:, 1:], apart[:, None]], dim=-1)

    with plain_arithmetic(pair.q.hidden):
        return join_log_ratios(every_block(of_block, *tiles(pair.q, 2, plan.workspace)))


@head_operator(
    "head_log_ratio_gradients(Tensor[] tensors, Tensor tokens, Tensor saved, Tensor upstream, *, "
    f"{PLAN}, int start, bool of_kl, bool[] wanted) -> Tensor[]",
    gradients_like,
    gradient=True,
)
def log_ratio_gradients(
    tensors: list[Tensor],
    plan: HeadPlan,
    tokens: Tensor,
    saved: Tensor,
    upstream: Tensor,
    *,
    start: int,
    of_kl: bool,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients to hidden, weight and bias of q, then of p; one that is not wanted is empty.

    Args:
        tensors, plan: two heads.
        tokens: their ids.
        saved: (tokens, 4): both normalisers, the KL and the entropy of the whole vocabulary.
        upstream: (4, tokens): the gradients to log q(y), log p(y), the KL and the entropy.
        start: this shard's first word.
        of_kl: whether any gradient comes to the KL.
        wanted: gradients.
    """
    pair, kernels = pair_of(tensors, plan), block_kernels(plan.backend)
    want_q, want_p = any(wanted[:3]), any(wanted[3:])
    # A gradient to the policy alone, and not through the KL, needs no product of the reference.
    both = of_kl or want_p
    rows, columns = tiles(pair.q, HELD if both else 1, plan.workspace)
    gradients = [HeadGradients(*of, rows, columns) for of in ((pair.q, wanted[:3]), (pair.p, wanted[3:]))]
    with plain_arithmetic(pair.q.hidden):
        for across in columns:
            with gradients[0].over(across) as to_q, gradients[1].over(across) as to_p:
                for at in rows:
                    z = pair.q.uncapped(at, across)
                    slopes = [pair.q.slope(z) if want_q else None, None]
                    second = z
                    if both:
                        z, second, slopes[1] = pair.block(z, at, across, want_p)
                    else:
                        z = pair.q.capped(z)
                    index = local_index(tokens[at], start + across.start, across.stop - across.start)
                    of_rows = _OfRows(index, saved[at], upstream[:, at], of_kl)
                    grads = _block_gradients(pair, kernels, (z, second), of_rows, (want_q, want_p))
                    for add, grad, slope in zip((to_q, to_p), grads, slopes, strict=True):
                        if grad is not None:
                            add(at, grad, slope)
    return [*gradients[0].results(), *gradients[1].results()]


@dataclass(frozen=True)
class _OfRows:
    """What belongs to the rows of a block: see ``log_ratio_gradients``."""

    index: Tensor
    saved: Tensor
    upstream: Tensor
    of_kl: bool


def _block_gradients(
    pair: HeadPair, kernels: BlockKernels, block: tuple[Tensor, Tensor], of: _OfRows, wanted: tuple[bool, bool]
) -> Outputs:
    """The gradients to the logits of both models, or None; the block is overwritten."""
    (z, second), (want_q, want_p) = block, wanted
    lq, lp, kl, entropy = of.saved.unbind(dim=-1)
    to_q, to_p, to_kl, to_entropy = of.upstream
    nothing = torch.zeros_like(lp)
    grad_q = grad_p = None
    if want_p:
        z_p = z - second if pair.difference else second
        grad_p = torch.empty_like(z_p)
        _token_gradients(kernels, z_p, of.index, (lp, nothing, to_p, nothing), grad_p)
    if want_q:
        grad_q = torch.empty_like(z) if of.of_kl else z
        _token_gradients(kernels, z, of.index, (lq, entropy, to_q, to_entropy), grad_q)
    if of.of_kl:
        whole = torch.stack([lq, lp, kl, kl, nothing], dim=-1)
        kernels.pair_gradients(
            z,
            second,
            whole,
            to_kl,
            divergence=DIVERGENCES["kl"],
            temperature=1.0,
            outs=(z if want_q else None, second if want_p else None),
            difference=pair.difference,
        )
        grad_q = None if grad_q is None else grad_q.add_(z)
        grad_p = None if grad_p is None else grad_p.add_(second)
    return grad_q, grad_p


def _token_gradients(
    kernels: BlockKernels, z: Tensor, index: Tensor, numbers: tuple[Tensor, Tensor, Tensor, Tensor], out: Tensor
) -> None:
    total, entropy, of_logprob, of_entropy = numbers
    saved = torch.stack([total, entropy], dim=-1)
    kernels.token_gradients(z, index, saved, of_logprob=of_logprob, of_entropy=of_entropy, temperature=1.0, out=out)
