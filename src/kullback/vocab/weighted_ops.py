"""The weighted sums as custom operators: value and gradient from one sweep over whole rows of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kullback.vocab import partition, shards
from kullback.vocab.backends import block_kernels
from kullback.vocab.formulas import Divergence, divergence_of, wide
from kullback.vocab.head_ops import PLAN, gradients_like, head_operator, heads_of, pair_of
from kullback.vocab.heads import Head, HeadGradients, HeadPlan, bands, worth_holding
from kullback.vocab.kernels import BlockKernels
from kullback.vocab.ops import check_tokens, local_index, plain_arithmetic
from kullback.vocab.products import slices

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Of a block of rows, whose reference logits are held one part at a time where they get no gradient: the workspace then
# holds 4/3 of the rows that two whole blocks of logits would leave, for the same memory.
REFERENCE_PARTS = 2


def _row_blocks(head: Head, models: float, workspace: int, group: ProcessGroup | None) -> tuple[list[slice], slice]:
    """Blocks of rows, the same on every rank, and all columns of this one."""
    # By the widest shard: ranks that went by their own widths could disagree on the number of blocks, and so on the
    # number of collectives, and wait for each other forever.
    vocabulary = len(head.weight)
    return bands(head, models, workspace, shards.widest_shard(vocabulary, group)), slice(0, vocabulary)


def _saved(
    z: tuple[Tensor, Tensor],
    difference: bool,
    kernels: BlockKernels,
    divergence: Divergence,
    group: ProcessGroup | None,
) -> Tensor:
    """What the gradient of whole rows needs, (rows, 5)."""
    saved = partition.saved_of_pairs(kernels.pair_statistics(*z, 1.0, difference), divergence, group)
    if divergence.chains:
        return saved
    sums = kernels.pair_sums(*z, saved, divergence=divergence, temperature=1.0, difference=difference)
    return partition.saved_of_sums(saved, sums, group)


def _pair_like(tensors: list[Tensor], plan: HeadPlan, *_: object, wanted: list[bool], **__: object) -> list[Tensor]:
    return [wide(tensors[0].new_empty(len(tensors[0]))), *gradients_like(tensors, plan, wanted=wanted)]


@head_operator(
    f"weighted_pair(Tensor[] tensors, Tensor weights, *, {PLAN}, "
    "str divergence, float skew, str group_name, bool[] wanted) -> Tensor[]",
    _pair_like,
    gradient=True,
)
def weighted_pair(
    tensors: list[Tensor],
    plan: HeadPlan,
    weights: Tensor,
    *,
    divergence: str,
    skew: float,
    group_name: str,
    wanted: list[bool],
) -> list[Tensor]:
    """The divergence at every token, (tokens,), and the gradients of its weighted sum in ``pair_gradients``' order."""
    pair = pair_of(tensors, plan)
    q, p = pair.q, pair.p
    kind, kernels, group = divergence_of(divergence, skew), block_kernels(plan.backend), shards.group_of(group_name)
    want_q, want_p = any(wanted[:3]), any(wanted[3:])
    parts = 1 if want_p else REFERENCE_PARTS
    rows, columns = _row_blocks(q, 1 + 1 / parts, plan.workspace, group)
    of_q = HeadGradients(q, wanted[:3], rows, [columns], worth_holding(q, wanted[:3], rows))
    of_p = HeadGradients(p, wanted[3:], rows, [columns])
    values = wide(weights.new_zeros(len(q.hidden)))
    with plain_arithmetic(q.hidden), of_q.over(columns) as to_q, of_p.over(columns) as to_p:

        def make(at: slice, z: Tensor, grad: Tensor) -> None:
            """The divergences of some rows, and the gradients to their logits; the logits are overwritten."""
            z, second, slope = pair.block(z, at, columns, want_p)
            saved = _saved((z, second), pair.difference, kernels, kind, group)
            values[at] = saved[:, 2]
            if want_q or want_p:
                kernels.pair_gradients(
                    z,
                    second,
                    saved,
                    weights[at],
                    divergence=kind,
                    temperature=1.0,
                    outs=(grad if want_q else None, second if want_p else None),
                    difference=pair.difference,
                )
            if want_p:
                to_p(at, second, slope)

        for block in rows:
            z = q.uncapped(block, columns)
            slope = q.slope(z) if want_q else None
            grad = of_q.room(z, slope, block) if want_q else z
            for part in slices(len(z), -(-len(z) // parts)):
                make(slice(block.start + part.start, block.start + part.stop), z[part], grad[part])
            if want_q:
                to_q(block, grad, slope)
    return [values, *of_q.results(), *of_p.results()]


def _tokens_like(tensors: list[Tensor], plan: HeadPlan, *_: object, wanted: list[bool], **__: object) -> list[Tensor]:
    return [wide(tensors[0].new_empty((len(tensors[0]), 3))), *gradients_like(tensors, plan, wanted=wanted)]


@head_operator(
    f"weighted_tokens(Tensor[] tensors, Tensor tokens, Tensor weights, Tensor entropy_weights, *, {PLAN}, "
    "int start, int size, str group_name, bool[] wanted) -> Tensor[]",
    _tokens_like,
    gradient=True,
)
def weighted_tokens(
    tensors: list[Tensor],
    plan: HeadPlan,
    tokens: Tensor,
    weights: Tensor,
    entropy_weights: Tensor,
    *,
    start: int,
    size: int,
    group_name: str,
    wanted: list[bool],
) -> list[Tensor]:
    """(tokens, 3) as ``token_statistics``, and the gradients of the weighted sum of log-probs and entropies."""
    check_tokens(tokens, size)
    (head,) = heads_of(tensors, plan)
    kernels, group = block_kernels(plan.backend), shards.group_of(group_name)
    rows, columns = _row_blocks(head, 1, plan.workspace, group)
    gradients = HeadGradients(head, wanted, rows, [columns], worth_holding(head, wanted, rows))
    saved = wide(weights.new_zeros((len(head.hidden), 3)))
    with plain_arithmetic(head.hidden), gradients.over(columns) as add:
        for at in rows:
            z = head.uncapped(at, columns)
            slope = head.slope(z) if any(wanted) else None
            z = head.capped(z)
            index = local_index(tokens[at], start, columns.stop)
            own = kernels.token_statistics(z, index, 1.0)
            saved[at] = shards.whole_statistics(own, partition.join_tokens, group)
            if any(wanted):
                grad = gradients.room(z, slope, at)
                kernels.token_gradients(
                    z,
                    index,
                    saved[at, :2],
                    of_logprob=weights[at],
                    of_entropy=entropy_weights[at],
                    temperature=1.0,
                    out=grad,
                )
                add(at, grad, slope)
    return [saved, *gradients.results()]
