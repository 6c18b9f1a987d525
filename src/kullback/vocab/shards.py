"""A vocabulary split over a process group: one gather of three numbers a token and rank, forward only.

Every rank holds the same tokens and its own columns, as Megatron's tensor parallelism leaves logits. The
result is the same on every rank, and so is the gradient that comes back to it, which makes the backward pass
of the logits local: each rank has all that its own columns need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from kullback.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Shard:
    """Where this rank's columns lie in the vocabulary.

    Attributes:
        start: the first of them.
        size: words of the whole vocabulary.
        group: over which it is split, or None.
    """

    start: int
    size: int
    group: ProcessGroup | None


def whole_statistics(statistics: Tensor, join: Callable[[Tensor], Tensor], group: ProcessGroup | None) -> Tensor:
    """(…, k) of this rank → (…, k) of the whole vocabulary, the same on every rank."""
    if group is None:
        return statistics
    # One gather of 24 bytes a token and rank, where a reduction of maxima, one of sums and one of the KL's terms would
    # be three; every rank then joins them in the same order, so that all have the same bits.
    flat = statistics.reshape(-1, statistics.shape[-1]).contiguous()
    everyone = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, flat, group=group)
    return join(torch.stack(everyone, dim=1)).view(statistics.shape)


def group_name(group: ProcessGroup | None) -> str:
    """What an operator is told of a group; "" is none."""
    return "" if group is None else str(group.group_name)


def group_of(name: str) -> ProcessGroup | None:
    """The group of a name."""
    # An operator takes numbers and strings, and torch keeps the way from a name to its group to itself.
    resolve: Callable[[str], ProcessGroup] = vars(dist.distributed_c10d)["_resolve_process_group"]
    return resolve(name) if name else None


def sum_over_ranks(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over the ranks, in x itself."""
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def shard(width: int, group: ProcessGroup | None, vocab_start: int | None) -> Shard:
    """This rank's place in the vocabulary; shards are of one width unless a start is given.

    Raises:
        InputError: a start without a group.
    """
    if group is None:
        if vocab_start:
            raise InputError(f"vocab_start={vocab_start} came without a group, but the whole vocabulary starts at 0")
        return Shard(start=0, size=width, group=None)
    if vocab_start is None:
        return Shard(start=dist.get_rank(group) * width, size=dist.get_world_size(group) * width, group=group)
    return Shard(start=vocab_start, size=_reduced(width, dist.ReduceOp.SUM, group), group=group)


def widest_shard(width: int, group: ProcessGroup | None) -> int:
    """The largest width of any rank: what all of them can go by."""
    return width if group is None else _reduced(width, dist.ReduceOp.MAX, group)


def _reduced(number: int, reduction: dist.ReduceOp.RedOpType, group: ProcessGroup) -> int:
    total = torch.tensor(number, device="cpu" if dist.get_backend(group) == "gloo" else "cuda")
    dist.all_reduce(total, reduction, group=group)
    return int(total)


def local_columns(x: Tensor, group: ProcessGroup | None, name: str) -> tuple[Tensor, ProcessGroup | None, int | None]:
    """The local columns of a DTensor with their group and start; a plain tensor as it is.

    Raises:
        InputError: the DTensor is split otherwise than over the vocabulary.
    """
    if type(x) is Tensor or not hasattr(x, "device_mesh"):
        return x, group, None
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(x, DTensor):
        return x, group, None
    last = x.ndim - 1
    split = [dim for dim, placement in enumerate(x.placements) if placement.is_shard()]
    over_words = [dim for dim in split if any(x.placements[dim].is_shard(words) for words in (last, -1))]
    if len(split) != 1 or not over_words or any(placement.is_partial() for placement in x.placements):
        raise InputError(
            f"{name} is a DTensor placed as {x.placements}, but its last dimension, the vocabulary, must be "
            "the one that is split: redistribute it with Shard(-1)"
        )
    _, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return x.to_local(), x.device_mesh.get_group(split[0]), offset[last]
