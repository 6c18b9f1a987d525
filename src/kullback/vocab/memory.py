"""Memory for large results on a CPU: a fresh page costs more than the arithmetic that fills it, so take huge ones."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

LARGE = 1 << 25
"""Bytes from which on malloc returns memory to the system, so that every result is on fresh pages."""


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty``, in huge pages where it is large and the system has them."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Room:
    """Memory for one tensor at a time, whose pages serve the next one too."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def empty(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``torch.empty``, over what was there before."""
        size = math.prod(shape)
        if (self.memory.dtype, self.memory.device) != (dtype, device) or self.memory.numel() < size:
            self.memory = torch.empty(0)  # or two would be held for a moment
            self.memory = empty((size,), dtype=dtype, device=device)
        return self.memory[:size].view(shape)
