"""A vocabulary split over a process group: one gather of three numbers a token and rank, forward only.

Every rank holds the same tokens and its own columns, as Megatron's tensor parallelism leaves logits. The
result is the same on every rank, and so is the gradient that comes back to it, which makes the backward pass
of the logits local: each rank has all that its own columns need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kullback.errors import InputError


def joined(statistics: Tensor, join: Callable[[Tensor], Tensor], group: Any) -> Tensor:
    """(…, k) of this rank → (…, k) of the whole vocabulary, the same on every rank."""
    if group is None:
        return statistics
    flat = statistics.reshape(-1, statistics.shape[-1]).contiguous()
    everyone = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, flat, group=group)
    return join(torch.stack(everyone, dim=1)).view(statistics.shape)


def name_of(group: Any) -> str:
    """What an operator is told of a group; "" is none."""
    return "" if group is None else str(group.group_name)


def named(name: str) -> Any:
    """The group of a name."""
    resolve: Any = vars(dist.distributed_c10d)["_resolve_process_group"]
    return resolve(name) if name else None


def summed(x: Tensor, group: Any) -> Tensor:
    """The sum over the ranks."""
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def columns(width: int, group: Any, vocab_start: int | None) -> tuple[int, int]:
    """The first column of this rank and the size of the vocabulary; shards are of one width unless it is given.

    Raises:
        InputError: a start without a group.
    """
    if group is None:
        if vocab_start:
            raise InputError(f"vocab_start={vocab_start} came without a group, but the whole vocabulary starts at 0")
        return 0, width
    if vocab_start is None:
        return dist.get_rank(group) * width, dist.get_world_size(group) * width
    return vocab_start, _agreed(width, dist.ReduceOp.SUM, group)


def widest(width: int, group: Any) -> int:
    """The largest width of any rank: what all of them can go by."""
    return width if group is None else _agreed(width, dist.ReduceOp.MAX, group)


def _agreed(number: int, reduction: Any, group: Any) -> int:
    found = torch.tensor(number, device="cpu" if dist.get_backend(group) == "gloo" else "cuda")
    dist.all_reduce(found, reduction, group=group)
    return int(found)


def unwrapped(x: Any, group: Any, name: str) -> tuple[Tensor, Any, int | None]:
    """The local columns of a DTensor with their group and start; a plain tensor as it is.

    Raises:
        InputError: the DTensor is split otherwise than over the vocabulary.
    """
    if type(x) is Tensor or not hasattr(x, "device_mesh"):
        return x, group, None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    last = x.ndim - 1
    split = [dim for dim, placement in enumerate(x.placements) if placement.is_shard()]
    if len(split) != 1 or x.placements[split[0]].dim not in (last, -1) or any(p.is_partial() for p in x.placements):
        raise InputError(
            f"{name} is a DTensor placed as {x.placements}, but its last dimension, the vocabulary, must be "
            "the one that is split: redistribute it with Shard(-1)"
        )
    _, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return x.to_local(), x.device_mesh.get_group(split[0]), offset[last]
