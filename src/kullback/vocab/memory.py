"""Memory for large results on a CPU: a fresh page costs more than the arithmetic that fills it, so take huge ones."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

# From here on malloc gives memory back to the system, so that every result is on fresh pages. Copying into them runs at
# 7.6 GB/s where memory itself does 33, which is most of the time that the plain formula takes.
LARGE_BYTES = 1 << 25


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty``, in huge pages where it is large and the system has them."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    # A huge page takes one fault where 512 ordinary ones take 512; torch has no switch for it. The mapping lives as
    # long as the tensor, which holds it through the buffer that it reads.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Scratch:
    """Memory for one tensor at a time, whose pages serve the next one too.

    Blocks of logits on fresh pages cost a fifth of the fused forms' time.
    """

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def empty(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``torch.empty``, over what was there before."""
        size = math.prod(shape)
        if (self.memory.dtype, self.memory.device) != (dtype, device) or self.memory.numel() < size:
            self.memory = torch.empty(0)  # or two would be held for a moment
            self.memory = empty((size,), dtype=dtype, device=device)
        return self.memory[:size].view(shape)
