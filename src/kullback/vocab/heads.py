"""Logits made a block at a time from hidden states and an LM head, and their gradients taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kullback.vocab import memory, products
from kullback.vocab.products import matmul, slices

WORKSPACE_BYTES = {"cpu": 3 << 25}
"""Of the logits that are held at a time, both models' together, unless told otherwise."""
ELSEWHERE = 1 << 30
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
        room, beside: for the logits of one block, and for their slopes.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float
    rounded: bool
    room: memory.Room = field(default_factory=memory.Room)
    beside: memory.Room = field(default_factory=memory.Room)

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """(rows, columns), in float32 unless rounded (float64 where the inputs are), instead of the last ones."""
        z = matmul(self.hidden[rows], self.weight[columns].T, self.rounded, self.room.empty)
        if self.bias is not None:
            z += self.bias[columns]
        if self.scale != 1:
            z *= self.scale
        return z.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else z

    def slope(self, z: Tensor) -> Tensor | None:
        """∂logits/∂(h·Wᵀ) from the logits, where it is not 1."""
        if self.softcap:
            slope = self.beside.empty(z.shape, dtype=z.dtype, device=z.device)
            return torch.div(z, self.softcap, out=slope).square_().sub_(1.0).mul_(-self.scale)
        return None if self.scale == 1 else torch.full((1, 1), self.scale, dtype=z.dtype, device=z.device)


class Gradients:
    """The gradients of a head's inputs, added up exactly block by block.

    Args:
        head: whose inputs.
        wanted: for hidden, weight and bias; one that is not wanted stays empty.
        rows, columns: the blocks, of which each pair comes once, all rows of some columns before the next.
    """

    def __init__(self, head: Head, wanted: Sequence[bool], rows: Sequence[slice], columns: Sequence[slice]) -> None:
        self.head = head
        self.exact = torch.promote_types(head.hidden.dtype, torch.float32)
        self.wanted = wanted
        bias = head.hidden.new_empty(0) if head.bias is None else head.bias
        inputs = zip((head.hidden, head.weight, bias), wanted, strict=True)
        self.hidden, self.weight, self.bias = (empty_like(x, want) for x, want in inputs)
        self.blocks = len(rows)
        self.of_hidden = {at.start: self._total(self.hidden[at], len(columns)) for at in rows if wanted[0]}

    def _total(self, result: Tensor, count: int) -> products.Total:
        return products.total(result, self.exact, count)

    @contextmanager
    def over(self, columns: slice) -> Iterator[Callable[[slice, Tensor, Tensor | None], None]]:
        """A function that takes the gradients to the logits of rows × these columns back to the inputs.

        It may overwrite the gradient that it is given; the third argument is ``Head.slope``.
        """
        head, (_, of_weight, of_bias) = self.head, self.wanted
        part = head.weight[columns]
        weight = self._total(self.weight[columns], self.blocks) if of_weight else None
        bias = torch.zeros_like(self.bias[columns], dtype=self.exact) if of_bias else None

        def add(rows: slice, grad: Tensor, slope: Tensor | None) -> None:
            if slope is not None:
                grad.mul_(slope)
            if bias is not None:
                bias.add_(grad.sum(dim=0, dtype=self.exact))
            if grad.is_cuda:
                grad = grad.to(head.hidden.dtype)
            if self.of_hidden:
                self.of_hidden[rows.start].add(grad, part)
            if weight is not None:
                weight.add(grad.T, head.hidden[rows])

        yield add
        if weight is not None:
            weight.finish()
        if bias is not None:
            self.bias[columns] = bias

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """To hidden, weight and bias, once all blocks have been added."""
        for total in self.of_hidden.values():
            total.finish()
        return self.hidden, self.weight, self.bias


def empty_like(x: Tensor, wanted: bool, empty: Callable[..., Tensor] = memory.empty) -> Tensor:
    """Room for the gradient to x, or an empty tensor where none is wanted."""
    return empty(x.shape if wanted else (0,), dtype=x.dtype, device=x.device)


def tiles(head: Head, models: int, workspace: int) -> tuple[list[slice], list[slice]]:
    """Row blocks and column blocks, of which one of each, times that many models, fits the workspace.

    Args:
        head: whose logits.
        models: whose logits are held together.
        workspace: bytes; 0 is ``WORKSPACE_BYTES``.
    """
    height = min(len(head.hidden), ROWS)
    across = _held(head, models, workspace) // max(1, height)
    return slices(len(head.hidden), height), slices(len(head.weight), max(128, across))


def bands(head: Head, models: float, workspace: int, width: int) -> list[slice]:
    """Row blocks that fit it with all their columns, of which there are so many."""
    return slices(len(head.hidden), _held(head, models, workspace) // max(1, width))


def _held(head: Head, models: float, workspace: int) -> int:
    """Logits of each model."""
    budget = workspace or WORKSPACE_BYTES.get(head.hidden.device.type, ELSEWHERE)
    itemsize = head.hidden.dtype.itemsize if head.rounded else max(4, head.hidden.dtype.itemsize)
    return int(budget / (models * itemsize))
