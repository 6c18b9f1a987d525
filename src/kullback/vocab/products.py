"""Sums of products of matrices, made from left to right: in float32, and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from kullback.vocab import memory

# Of a product that is held until it is added. On a CPU it stays in the 2 MB of cache that a core has: added by slices
# of 64 MB, a product went through memory twice, which cost as much as the product itself.
SLICE_BYTES = {"cpu": 1 << 20}
SLICE_BYTES_ELSEWHERE = 1 << 26

# Numbers to a multiple of which rows are spaced on a GPU: in half precision 16 bytes, as its matrix units ask.
ALIGNED = 8

# Of a product on a GPU: a dimension that is no multiple of ``ALIGNED`` is cut at the last multiple of this, for the
# libraries choose a kernel by the sizes as well as by the rows' spacing. On an H100 logits of 50,257 words take 30.5 ms
# however their rows are spaced, those of 50,256 words 4.3, and in two parts 4.5.
UNIT = 128

# Rows of half precision that are widened to float32 at a time, where no matrix unit does it: 8 MB at 1,024 hidden
# states, where the whole head of 131,072 words would take 537 MB.
WIDENED_ROWS = 2048


HALVES = torch.bfloat16, torch.float16


class Total(Protocol):
    """Σ a·b, in a result."""

    def add(self, a: Tensor, b: Tensor) -> None:
        """One product more."""

    def finish(self) -> None:
        """Round the sum into the result."""


def total(result: Tensor, exact: torch.dtype, products: int) -> Total:
    """The way to add up so many products in result, which may hold anything yet, with an accumulator in exact."""
    if products == 1:
        return _OneProduct(result, exact)
    if result.dtype == exact or result.device.type != "cpu":
        return _WideTotal(result, exact)
    return _ThreeByteTotal(result)


class _OneProduct:
    """A single product."""

    def __init__(self, result: Tensor, exact: torch.dtype) -> None:
        self.result, self.exact = result, exact

    def add(self, a: Tensor, b: Tensor) -> None:
        if a.is_cuda and a.dtype == b.dtype == self.result.dtype and len(_parts(a.shape[1])) == 1:
            multiply(a, b, self.result)  # from float32 sums into half precision: rounded once, in no pass of its own
        elif a.dtype == b.dtype == self.exact:
            torch.mm(a, b, out=self.result)
        else:
            for at, product in _products(a, b):
                self.result[at] = product

    def finish(self) -> None:
        pass


class _WideTotal:
    """An accumulator beside the result, or the result itself where that is as exact."""

    def __init__(self, result: Tensor, exact: torch.dtype) -> None:
        self.result = result
        self.sum = result.zero_() if result.dtype == exact else torch.zeros_like(result, dtype=exact)

    def add(self, a: Tensor, b: Tensor) -> None:
        if a.is_cuda and a.dtype == b.dtype and (a.dtype == self.sum.dtype or adds_wide(a.dtype, self.sum.dtype)):
            multiply(a, b, self.sum, add=True)
        elif a.dtype == b.dtype == self.sum.dtype:
            self.sum.addmm_(a, b)
        else:
            for at, product in _products(a, b):
                self.sum[at] += product

    def finish(self) -> None:
        if self.sum is not self.result:
            self.result.copy_(self.sum)


class _ThreeByteTotal:
    """The upper 24 bits of a float32: two bytes in the result of half precision, and one beside it.

    It rounds by 2⁻¹⁷ a product, and takes a quarter of float32's memory beside the result.
    """

    # A running sum in bfloat16 (2⁻⁹ a product) stops to grow at 256 times its terms. A float32 copy beside the result
    # was more than half of the peak of the fused KL: 537 MB for a head of 131,072 × 1,024, where the low bytes are 134
    # MB.
    #
    #     float32     s eeeeeeee mmmmmmm mmmmmmmm mmmmmmmm
    #     kept in     [ result's 16 bits ][ low  ][dropped]
    #
    # The result's bits are read as bfloat16 while the sum grows, also where it is float16: they are the upper half of a
    # float32, whatever dtype they are given in the end. Only ``finish`` rounds to that.

    def __init__(self, result: Tensor) -> None:
        self.result, self.empty = result, True
        self.low = memory.empty(result.shape, dtype=torch.uint8, device=result.device)

    def add(self, a: Tensor, b: Tensor) -> None:
        total, term = self._buffers()
        for at, product in _products(a, b):
            # Half of the last kept bit is added before the lowest byte goes, so that it rounds to nearest; a carry may
            # run through the mantissa into the exponent, and gives the right float32 there too. The five passes over
            # the bits are all within one slice, which is in the cache.
            bits = self._sum(at, total, term, product).view(torch.int32).add_(1 << 7).bitwise_right_shift_(8)
            self.low[at] = bits  # its lowest eight bits: a uint8 keeps no others
            self.result.view(torch.int16)[at] = bits.bitwise_right_shift_(8)
        self.empty = False

    def finish(self) -> None:
        total, term = self._buffers()
        for at in slices(len(self.result), len(total)):
            self.result[at] = self._sum(at, total, term)

    def _buffers(self) -> tuple[Tensor, ...]:
        """Two slices in float32, held only while something is added."""
        height = min(len(self.result), max(1, _slice_height(self.result)))
        return torch.empty((2, height, self.result.shape[1]), device=self.result.device).unbind(0)

    def _sum(self, at: slice, total: Tensor, term: Tensor, product: Tensor | None = None) -> Tensor:
        total, term = (buffer[: at.stop - at.start] for buffer in (total, term))
        if self.empty and product is not None:
            return total.copy_(product)
        total.copy_(self.result.view(torch.bfloat16)[at])  # the upper 16 bits of each float32, the lower ones 0
        total.view(torch.int32).add_(term.view(torch.int32).copy_(self.low[at]), alpha=1 << 8)
        return total if product is None else total.add_(term.copy_(product))


def _products(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows of a·b."""
    for at in slices(len(a), _slice_height(b)):
        yield at, matmul(a[at], b, rounded=not a.is_cuda) if a.dtype == b.dtype else _mixed_product(a[at], b)


def _mixed_product(a: Tensor, b: Tensor) -> Tensor:
    """a·b in the dtype of a, of which b is made a part at a time."""
    out = a.new_zeros((len(a), b.shape[1]))
    for at in slices(len(b), WIDENED_ROWS):
        out.addmm_(a[:, at], b[at].to(a.dtype))
    return out


def _slice_height(x: Tensor) -> int:
    return SLICE_BYTES.get(x.device.type, SLICE_BYTES_ELSEWHERE) // max(1, x.shape[1] * x.dtype.itemsize)


def matmul(a: Tensor, b: Tensor, rounded: bool = False, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """a·b with a float32 accumulator that is not rounded to half precision, unless told so; in memory that is empty."""
    # A CPU without units for half precision takes a hundred times float32's time for it, and would round besides.
    rounded = rounded and (a.is_cuda or a.dtype not in HALVES or half_is_fast())
    exact = rounded or a.dtype == torch.float64 or (a.dtype not in HALVES and b.dtype not in HALVES)
    out = aligned(empty, len(a), b.shape[1], a.dtype if exact else torch.float32, a.device)
    if exact:
        return multiply(a, b.to(a.dtype), out)
    if a.is_cuda:
        return _wide_on_cuda(a, b, out)
    wide = a.float()  # torch's mm of half precision on a CPU has no float32 result: the factors are widened instead
    for at in slices(b.shape[1], WIDENED_ROWS):
        torch.mm(wide, b[:, at].float(), out=out[:, at])
    return out


def aligned(empty: Callable[..., Tensor], rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``empty`` of (rows, columns); on a GPU each row starts at a multiple of 16 bytes, for its matrix units."""
    room = -(-columns // ALIGNED) * ALIGNED if device.type == "cuda" else columns
    return empty((rows, room), dtype=dtype, device=device)[:, :columns]


def _wide_on_cuda(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a·b in float32, of factors of which one at least is of half precision."""
    if not hasattr(torch.ops.aten.mm, "dtype_out"):  # before torch 2.8
        return torch.mm(a.float(), b.float(), out=out)
    if a.dtype == b.dtype:
        return multiply(a, b, out)
    if a.dtype != torch.float32 or b.dtype != torch.bfloat16:
        return torch.mm(a.float(), b.float(), out=out)
    # float32 as the sum of two of bfloat16, 16 bits of 24: two products of the matrix units, an eighth of its time
    upper = a.to(b.dtype)
    multiply(upper, b, out)
    lower = (a - upper).to(b.dtype)
    if adds_wide(b.dtype, out.dtype):
        return multiply(lower, b, out, add=True)
    return out.add_(torch.mm(lower, b, out_dtype=torch.float32))


def multiply(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> Tensor:
    """a·b into out, or added to it, on a GPU in parts of even sizes; out may be float32 where the factors are half."""
    if a.is_cuda:
        return in_parts(a, b, out, add)
    return out.addmm_(a, b) if add else torch.mm(a, b, out=out)


def in_parts(a: Tensor, b: Tensor, out: Tensor, add: bool) -> Tensor:
    """``multiply`` with each odd size cut in two."""
    for m in _parts(len(a)):
        for n in _parts(b.shape[1]):
            for k in _parts(a.shape[1]):
                _one_part(a[m, k], b[k, n], out[m, n], add or k.start > 0)
    return out


def _one_part(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    wide: dict[str, Any] = {} if a.dtype == out.dtype else {"out_dtype": out.dtype}
    if not add:
        torch.mm(a, b, **wide, out=out)
    elif wide and not adds_wide(a.dtype, out.dtype):
        out.add_(torch.mm(a, b, **wide))
    else:
        torch.addmm(out, a, b, **wide, out=out)


def _parts(size: int) -> list[slice]:
    """Of one dimension: all of it, or the largest even part and the rest."""
    whole = size - size % UNIT
    return [slice(0, whole), slice(whole, size)] if whole and size % ALIGNED else [slice(0, size)]


@cache
def adds_wide(half: torch.dtype, wide: torch.dtype) -> bool:
    """Whether CUDA adds a product of half precision to a sum in float32: once through memory, not three times."""
    a, total = torch.ones(16, 16, dtype=half, device="cuda"), torch.ones(16, 16, dtype=wide, device="cuda")
    try:
        torch.addmm(total, a, a, out_dtype=wide, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17).all())


# Asked once, here: torch.compile cannot look into the question.
_HALF_IS_FAST: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]


def half_is_fast() -> bool:
    """Whether this CPU multiplies in bfloat16 faster than in float32."""
    return _HALF_IS_FAST


def slices(count: int, step: int) -> list[slice]:
    """Of so many at a time, and at least one, over count."""
    step = max(1, step)
    return [slice(start, min(start + step, count)) for start in range(0, max(count, 1), step)]
