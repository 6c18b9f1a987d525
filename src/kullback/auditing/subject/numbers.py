"""Numbers that code logs while many batches run in one call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn


class Unseen(float):
    """What `.item()` gives of many batches at once: it may be kept and logged, and nothing can be decided by it.

    As a number it is nan, so that what is computed from it differs from a call for one batch.
    """

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError("code looks at a number of many batches at once")

    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __round__ = _refuse
    __eq__ = __ne__ = _refuse
    __hash__ = float.__hash__


@contextlib.contextmanager
def unseen_numbers() -> Iterator[None]:
    """`Tensor.item` of a batched tensor gives an `Unseen`, where it would refuse."""
    import torch

    own: Any = torch.Tensor.item

    def item(tensor: torch.Tensor) -> object:
        return Unseen("nan") if torch._C._functorch.is_batchedtensor(tensor) else own(tensor)

    tensors: Any = torch.Tensor
    tensors.item = item
    try:
        yield
    finally:
        del tensors.item
