"""Log-ratios of drawn tokens from two heads as custom operators: all statistics of a block while it is at hand."""

from __future__ import annotations

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
    from kullback.vocab.kernels import BlockKernels
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
    f"{PLAN}, int start, bool[] wanted) -> Tensor[]",
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
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients to hidden, weight and bias of q, then of p; one that is not wanted is empty.

    Args:
        tensors, plan: two heads.
        tokens: their ids.
        saved: (tokens, 4): both normalisers, the KL and the entropy of the whole vocabulary.
        upstream: (4, tokens): the gradients to log q(y), log p(y), the KL and the entropy.
        start: this shard's first word.
        wanted: gradients.
    """
    pair, kernels = pair_of(tensors, plan), block_kernels(plan.backend)
    rows, columns = tiles(pair.q, HELD, plan.workspace)
    gradients = [HeadGradients(*of, rows, columns) for of in ((pair.q, wanted[:3]), (pair.p, wanted[3:]))]
    want_q, want_p = any(wanted[:3]), any(wanted[3:])
    with plain_arithmetic(pair.q.hidden):
        for across in columns:
            with gradients[0].over(across) as to_q, gradients[1].over(across) as to_p:
                for at in rows:
                    z = pair.q.uncapped(at, across)
                    slope_q = pair.q.slope(z) if want_q else None
                    z, second, slope_p = pair.block(z, at, across, want_p)
                    index = local_index(tokens[at], start + across.start, across.stop - across.start)
                    of_q, of_p = _block_gradients(pair, kernels, (z, second), index, (saved[at], upstream[:, at]))
                    if want_q:
                        to_q(at, of_q, slope_q)
                    if want_p:
                        to_p(at, of_p, slope_p)
    return [*gradients[0].results(), *gradients[1].results()]


def _block_gradients(
    pair: HeadPair,
    kernels: BlockKernels,
    block: tuple[Tensor, Tensor],
    index: Tensor,
    of_rows: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The gradients to the logits of both models; the block is overwritten."""
    z, second = block
    saved, (of_q, of_p, of_kl, of_entropy) = of_rows
    lq, lp, kl, entropy = saved.unbind(dim=-1)
    models = (
        (z, lq, entropy, of_q, of_entropy),
        (
            z - second if pair.difference else second,
            lp,
            torch.zeros_like(lp),
            of_p,
            torch.zeros_like(of_p),
        ),
    )
    made = []
    for x, total, own, g1, g2 in models:
        out = torch.empty_like(x)
        numbers = torch.stack([total, own], dim=-1)
        kernels.token_gradients(x, index, numbers, of_logprob=g1, of_entropy=g2, temperature=1.0, out=out)
        made.append(out)
    whole = torch.stack([lq, lp, kl, kl, torch.zeros_like(kl)], dim=-1)
    kernels.pair_gradients(
        z,
        second,
        whole,
        of_kl,
        divergence=DIVERGENCES["kl"],
        temperature=1.0,
        outs=block,
        difference=pair.difference,
    )
    return made[0].add_(z), made[1].add_(second)
