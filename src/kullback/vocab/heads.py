"""Logits made a block at a time from hidden states and an LM head, and their gradients taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kullback.vocab import pages

WORKSPACE_BYTES = {"cpu": 1 << 27}
"""Of the logits that are held at a time, both models' together, unless told otherwise."""
ELSEWHERE = 1 << 30
WIDENED = 2048
"""Words whose half-precision weights are widened to float32 at a time, where no matrix unit does it."""
SUMMED = 8192
"""Rows of a gradient whose share of one block is held before it is added."""
ROWS = 2048
"""Tokens of a block: enough for the matrix units, few enough that the columns need not be narrow."""


@dataclass(frozen=True)
class Head:
    """cap·tanh(scale(h·Wᵀ + bias)/cap): an LM head with its hidden states.

    Attributes:
        hidden: (tokens, hidden).
        weight: (vocab, hidden).
        bias: (vocab,), or None.
        scale: what the logits are multiplied by, before the cap.
        softcap: the cap of the logits; 0 leaves them uncapped.
        rounded: whether logits may be rounded to the dtype of the hidden states.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float
    rounded: bool

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """(rows, columns), in float32 unless rounded (float64 where the inputs are)."""
        z = matmul(self.hidden[rows], self.weight[columns].T, self.rounded)
        if self.bias is not None:
            z += self.bias[columns]
        if self.scale != 1:
            z *= self.scale
        return z.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else z

    def slope(self, z: Tensor) -> Tensor | None:
        """∂logits/∂(h·Wᵀ) from the logits, where it is not 1."""
        if self.softcap:
            return (1.0 - (z / self.softcap) ** 2) * self.scale
        return None if self.scale == 1 else torch.full((1, 1), self.scale, dtype=z.dtype, device=z.device)


def matmul(a: Tensor, b: Tensor, rounded: bool = False) -> Tensor:
    """a·b with a float32 accumulator that is not rounded to half precision, unless told so."""
    exact = rounded or a.dtype not in (torch.bfloat16, torch.float16)
    if a.is_cuda and not exact:
        return torch.mm(a, b, out_dtype=torch.float32)
    out = pages.empty((len(a), b.shape[1]), dtype=a.dtype if exact else torch.float32, device=a.device)
    if exact:
        return torch.mm(a, b.to(a.dtype), out=out)
    wide = a.float()
    for at in _slices(b.shape[1], WIDENED):
        out[:, at] = wide @ b[:, at].float()
    return out


class Gradients:
    """The gradients of a head's inputs, added up in float32 block by block.

    Args:
        head: whose inputs.
        wanted: for hidden, weight and bias; one that is not wanted stays empty.
    """

    def __init__(self, head: Head, wanted: Sequence[bool]) -> None:
        self.head = head
        self.exact = torch.promote_types(head.hidden.dtype, torch.float32)
        self.wanted = wanted
        self.hidden = torch.zeros_like(head.hidden, dtype=self.exact) if wanted[0] else None
        self.weight = empty_like(head.weight, wanted[1])
        self.bias = empty_like(head.hidden.new_empty(0) if head.bias is None else head.bias, wanted[2])

    @contextmanager
    def over(self, columns: slice) -> Iterator[Callable[[slice, Tensor, Tensor | None], None]]:
        """A function that takes the gradients to the logits of rows × these columns back to the inputs.

        It may overwrite the gradient that it is given; the third argument is ``Head.slope``.
        """
        head, (_, of_weight, of_bias) = self.head, self.wanted
        part = head.weight[columns]
        weight = self._sum(self.weight[columns]) if of_weight else None
        bias = self._sum(self.bias[columns]) if of_bias else None

        def add(rows: slice, grad: Tensor, slope: Tensor | None) -> None:
            if slope is not None:
                grad.mul_(slope)
            if bias is not None:
                bias.add_(grad.sum(dim=0, dtype=self.exact))
            if grad.is_cuda:
                grad = grad.to(head.hidden.dtype)
            if self.hidden is not None:
                _accumulate(self.hidden[rows], grad, part)
            if weight is not None:
                _accumulate(weight, grad.T, head.hidden[rows])

        yield add
        for total, result in ((weight, self.weight), (bias, self.bias)):
            if total is not None and total.dtype != result.dtype:
                result[columns] = total

    def _sum(self, result: Tensor) -> Tensor:
        """Zeros to add up in: the result itself, unless its dtype would round."""
        return result.zero_() if result.dtype == self.exact else torch.zeros_like(result, dtype=self.exact)

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """To hidden, weight and bias, in their dtypes."""
        hidden = self.head.hidden
        return hidden.new_empty(0) if self.hidden is None else self.hidden.to(hidden.dtype), self.weight, self.bias


def empty_like(x: Tensor, wanted: bool, empty: Callable[..., Tensor] = pages.empty) -> Tensor:
    """Room for the gradient to x, or an empty tensor where none is wanted."""
    return empty(x.shape if wanted else (0,), dtype=x.dtype, device=x.device)


def _accumulate(into: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == b.dtype == into.dtype:
        into.addmm_(a, b)
    elif a.dtype == into.dtype:
        for at in _slices(len(b), WIDENED):
            into.addmm_(a[:, at], b[at].to(a.dtype))
    else:
        for at in _slices(len(a), SUMMED):
            into[at] += matmul(a[at], b, rounded=not a.is_cuda)


def tiles(head: Head, models: int, workspace: int | None, whole_rows: bool = False) -> tuple[list[slice], list[slice]]:
    """Row blocks and column blocks, of which one of each, times that many models, fits the workspace.

    Args:
        head: whose logits.
        models: whose logits are held together.
        workspace: bytes; None is ``WORKSPACE_BYTES``.
        whole_rows: never split the vocabulary.
    """
    tokens, vocabulary = len(head.hidden), len(head.weight)
    budget = workspace or WORKSPACE_BYTES.get(head.hidden.device.type, ELSEWHERE)
    itemsize = head.hidden.dtype.itemsize if head.rounded else max(4, head.hidden.dtype.itemsize)
    elements = max(1, budget // (models * itemsize))
    if whole_rows:
        return _slices(tokens, elements // max(1, vocabulary)), [slice(0, vocabulary)]
    height = min(tokens, ROWS)
    return _slices(tokens, height), _slices(vocabulary, max(128, elements // max(1, height)))


def _slices(total: int, step: int) -> list[slice]:
    step = max(1, step)
    return [slice(start, min(start + step, total)) for start in range(0, max(total, 1), step)]
