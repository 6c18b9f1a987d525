"""The torch tensors that every exact world is made of, whatever the audited function takes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Array, is_torch
from kullback.auditing.subject.failures import CallFailed, failure
from kullback.errors import MissingPackageError

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor
    Columns = Mapping[str, Tensor]

Rows = slice | list[int]
"""Which sequences of the columns go into a call."""

EVERY = slice(None)


def require_torch() -> ModuleType:
    """torch, or the error that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("torch", "torch") from error
    return torch


def tensor(array: Array) -> Tensor:
    """An array of an exact world, which is a torch tensor because its logits are."""
    if not is_torch(array):
        raise TypeError(f"a {type(array).__name__} came, but exact worlds are made of torch tensors")
    return array


def result_tensor(result: object, *, rows: int = 0) -> Tensor:
    """A function's result as a tensor: its own with its gradient, numbers and NumPy arrays as float64.

    What a generator yields, or a list of one tensor a row, is stacked.

    Raises:
        CallFailed: it returned something else.
    """
    import torch

    if is_torch(result):
        return result
    if isinstance(result, Generator):
        result = list(result)
        rows = len(result)
    if isinstance(result, list) and rows and len(result) == rows:
        parts = [result_tensor(part) for part in result]
        if len({part.shape for part in parts}) == 1:
            return torch.stack(parts)
    if isinstance(result, bool | int | float | np.ndarray | np.generic):
        return torch.as_tensor(np.asarray(result, dtype=np.float64))
    if isinstance(result, tuple | list | dict):
        inside = list(result) if isinstance(result, dict) else [f"{i}" for i in range(len(result))]
        raise CallFailed(
            "KB002",
            f"the function returned a {type(result).__name__} of {len(inside)}: "
            f"say which one is the KL with output=… (--output), one of {', '.join(map(str, inside))}",
        )
    raise CallFailed("KB002", f"the function returned a {type(result).__name__}, but an array or a number is needed")


def masked(result: Tensor, mask: Tensor) -> Tensor:
    """A number a token, 0 where the token does not count, whatever the function left there."""
    import torch

    return torch.where(mask, result, torch.zeros_like(result))


def differentiate(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """d value / d inputs, zeros where there is no path.

    Raises:
        CallFailed: the function's own backward pass raised.
    """
    import torch

    if not value.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    try:
        found = torch.autograd.grad(value, list(inputs), retain_graph=True, allow_unused=True)
    except Exception as error:
        raise failure(error) from error
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
