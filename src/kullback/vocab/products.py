"""Sums of products of matrices, made from left to right: in float32, and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from kullback.vocab import memory

SLICE_BYTES = {"cpu": 1 << 20}
"""Of the products that are held until they are added: on a CPU they stay in the cache."""
ELSEWHERE = 1 << 26
WIDENED = 2048
"""Rows of half precision that are widened to float32 at a time, where no matrix unit does it."""


class Total(Protocol):
    """Σ a·b, in a result."""

    def add(self, a: Tensor, b: Tensor) -> None:
        """One product more."""

    def finish(self) -> None:
        """Round the sum into the result."""


def total(result: Tensor, exact: torch.dtype, products: int) -> Total:
    """The way to add up so many products in result, which may hold anything yet, with an accumulator in exact."""
    if products == 1:
        return _Only(result, exact)
    if result.dtype == exact or result.device.type != "cpu":
        return _Wide(result, exact)
    return _ThreeBytes(result)


class _Only:
    """A single product."""

    def __init__(self, result: Tensor, exact: torch.dtype) -> None:
        self.result, self.exact = result, exact

    def add(self, a: Tensor, b: Tensor) -> None:
        if a.dtype == b.dtype == self.exact:
            torch.mm(a, b, out=self.result)
        else:
            for at, product in _products(a, b):
                self.result[at] = product

    def finish(self) -> None:
        pass


class _Wide:
    """Beside the result, unless that is as exact."""

    def __init__(self, result: Tensor, exact: torch.dtype) -> None:
        self.result = result
        self.sum = result.zero_() if result.dtype == exact else torch.zeros_like(result, dtype=exact)

    def add(self, a: Tensor, b: Tensor) -> None:
        if a.dtype == b.dtype == self.sum.dtype:
            self.sum.addmm_(a, b)
        else:
            for at, product in _products(a, b):
                self.sum[at] += product

    def finish(self) -> None:
        if self.sum is not self.result:
            self.result.copy_(self.sum)


class _ThreeBytes:
    """The upper 24 bits of a float32: two bytes in the result of half precision, and one beside it.

    It rounds by 2⁻¹⁷ a product, and takes a quarter of float32's memory beside the result.
    """

    def __init__(self, result: Tensor) -> None:
        self.result, self.empty = result, True
        self.low = memory.empty(result.shape, dtype=torch.uint8, device=result.device)

    def add(self, a: Tensor, b: Tensor) -> None:
        total, term = self._buffers()
        for at, product in _products(a, b):
            bits = self._sum(at, total, term, product).view(torch.int32).add_(1 << 7).bitwise_right_shift_(8)
            self.low[at] = bits
            self.result.view(torch.int16)[at] = bits.bitwise_right_shift_(8)
        self.empty = False

    def finish(self) -> None:
        total, term = self._buffers()
        for at in slices(len(self.result), len(total)):
            self.result[at] = self._sum(at, total, term)

    def _buffers(self) -> tuple[Tensor, ...]:
        """Two slices in float32, held only while something is added."""
        height = min(len(self.result), max(1, _height(self.result)))
        return torch.empty((2, height, self.result.shape[1]), device=self.result.device).unbind(0)

    def _sum(self, at: slice, total: Tensor, term: Tensor, product: Tensor | None = None) -> Tensor:
        total, term = (buffer[: at.stop - at.start] for buffer in (total, term))
        if self.empty and product is not None:
            return total.copy_(product)
        total.copy_(self.result.view(torch.bfloat16)[at])
        total.view(torch.int32).add_(term.view(torch.int32).copy_(self.low[at]), alpha=1 << 8)
        return total if product is None else total.add_(term.copy_(product))


def _products(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows of a·b."""
    for at in slices(len(a), _height(b)):
        yield at, matmul(a[at], b, rounded=not a.is_cuda) if a.dtype == b.dtype else _widened(a[at], b)


def _widened(a: Tensor, b: Tensor) -> Tensor:
    """a·b in the dtype of a, of which b is made a part at a time."""
    out = a.new_zeros((len(a), b.shape[1]))
    for at in slices(len(b), WIDENED):
        out.addmm_(a[:, at], b[at].to(a.dtype))
    return out


def _height(x: Tensor) -> int:
    return SLICE_BYTES.get(x.device.type, ELSEWHERE) // max(1, x.shape[1] * x.dtype.itemsize)


def matmul(a: Tensor, b: Tensor, rounded: bool = False, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """a·b with a float32 accumulator that is not rounded to half precision, unless told so; in memory that is empty."""
    exact = rounded or a.dtype not in (torch.bfloat16, torch.float16)
    out = empty((len(a), b.shape[1]), dtype=a.dtype if exact else torch.float32, device=a.device)
    if exact:
        return torch.mm(a, b.to(a.dtype), out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    wide = a.float()
    for at in slices(b.shape[1], WIDENED):
        torch.mm(wide, b[:, at].float(), out=out[:, at])
    return out


def slices(count: int, step: int) -> list[slice]:
    """Of so many at a time, and at least one, over count."""
    step = max(1, step)
    return [slice(start, min(start + step, count)) for start in range(0, max(count, 1), step)]
