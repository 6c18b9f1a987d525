"""Logits made a block at a time from hidden states and an LM head, and their gradients taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kullback.vocab import memory, products
from kullback.vocab.products import matmul, slices

# Of the logits that are held at a time, both models' together, unless told otherwise. On a CPU 96 MiB: with the
# gradient of a head of 131,072 words the peak of a fused KL is then 1/12 of the plain formula's, and its products are
# 1.5 times their floor.
WORKSPACE_BYTES = {"cpu": 3 << 25}
WORKSPACE_BYTES_ELSEWHERE = 1 << 30

# Of a GPU's memory: 2.2 GB of an H200's. At 8,192 × 131,072 × 4,096 the weighted KL takes 79 ms with 1 GiB, 73 with 2
# and 70 with 4, and its peak is 4.9, 6.3 and 9.2 GB.
SHARE_OF_GPU = 64

# Tokens of a block. Products want many: on a CPU with matrix units 2,048 rows run at 2.0 TFLOP/s in bfloat16 and 256
# rows at 0.5. More would leave the columns narrow: 2,048 tokens get 6,144 of two models' float32 logits in a CPU's
# workspace.
BLOCK_ROWS = 2048

# On a GPU a block of all rows adds nothing to the head's gradient twice: an accumulator of 131,072 × 4,096 in float32
# is 2 GB, read and written again for every further block of rows.
BLOCK_ROWS_ELSEWHERE = 8192

# Blocks of words are of even widths that are multiples of this: narrower ones are mostly overhead, and a GPU multiplies
# into rows of an odd length two to five times slower (96 ms became 200 at 8,192 × 131,072 × 4,096).
LEAST_COLUMNS = 128


@dataclass(frozen=True)
class HeadPlan:
    """How logits are made of one model's hidden states and head, or of two models': all but the tensors.

    Attributes:
        biased: whether each head has a bias.
        numbers: scale and softcap of each.
        precision: "float32", "mixed" or "bfloat16".
        difference: 0 where each model has its product, else 1, for the policy's logits and the difference of both; −1
            where a difference of weights was prepared for the models in the other order.
        workspace: bytes of logits held at a time; 0 is the device's default.
        backend: who computes a block of logits.
    """

    biased: tuple[bool, ...]
    numbers: tuple[tuple[float, float], ...]
    precision: str
    difference: int
    workspace: int
    backend: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """cap·tanh(scale(h·Wᵀ + bias)/cap): an LM head with its hidden states.

    Attributes:
        hidden: (tokens, hidden).
        weight: (vocab, hidden).
        bias: (vocab,), or None.
        scale: what the logits are multiplied by, before the cap.
        softcap: the cap of the logits; 0 leaves them uncapped.
        half: whether the factors of the logits are rounded to bfloat16.
        half_gradients: whether those of its gradients are, where that is fast.
        of_logits, of_slopes: memory for the logits of one block, and for their slopes.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    half: bool = False
    half_gradients: bool = False
    of_logits: memory.Scratch = field(default_factory=memory.Scratch)
    of_slopes: memory.Scratch = field(default_factory=memory.Scratch)

    def uncapped(self, rows: slice, columns: slice) -> Tensor:
        """scale(h·Wᵀ + bias), (rows, columns), instead of the last ones, in float32 or, of half products, bfloat16."""
        a, b = self.hidden[rows], self.weight[columns]
        if self.half:
            a, b = a.bfloat16(), b.bfloat16()
        z = matmul(a, b.T, self.half and not a.is_cuda, self.of_logits.empty)
        if self.bias is not None:
            z += self.bias[columns]
        return z if self.scale == 1 else z.mul_(self.scale)

    def capped(self, z: Tensor) -> Tensor:
        """The logits, of which z is overwritten."""
        return z.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else z

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """(rows, columns)."""
        return self.capped(self.uncapped(rows, columns))

    def slope(self, z: Tensor) -> Tensor | None:
        """∂logits/∂(h·Wᵀ) where it is not 1, from the logits before the cap."""
        if self.softcap:
            slope = self.of_slopes.empty(z.shape, dtype=z.dtype, device=z.device)
            return torch.div(z, self.softcap, out=slope).cosh_().square_().reciprocal_().mul_(self.scale)
        return None if self.scale == 1 else torch.full((1, 1), self.scale, dtype=z.dtype, device=z.device)

    def factor_of_gradients(self) -> torch.dtype | None:
        """What the gradients to the logits are rounded to before they are multiplied; None leaves them as they are."""
        cuda = self.hidden.is_cuda
        if self.half_gradients and self.hidden.dtype != torch.float64 and (cuda or products.half_is_fast()):
            return torch.bfloat16
        return self.hidden.dtype if cuda else None  # for the matrix units, as every trainer's backward pass does it


class HeadGradients:
    """The gradients of a head's inputs, added up exactly block by block.

    Args:
        head: whose inputs.
        wanted: for hidden, weight and bias; one that is not wanted stays empty.
        rows, columns: the blocks, of which each pair comes once, all rows of some columns before the next.
        held: keep the gradients to the logits of all rows, and multiply once, instead of adding up block by block.
    """

    # All rows of some columns before the next, so that only that part of the head's gradient is being added up, with
    # its accumulator: all of them at once would be another 134 MB for a head of 131,072 × 1,024 in half precision.

    def __init__(
        self, head: Head, wanted: Sequence[bool], rows: Sequence[slice], columns: Sequence[slice], held: bool = False
    ) -> None:
        self.head = head
        self.held: Tensor | None = None
        if held:
            shape = len(head.hidden), columns[0].stop - columns[0].start
            self.held = products.aligned(memory.empty, *shape, head.hidden.dtype, head.hidden.device)
            rows = [slice(0, len(head.hidden))]
        self.exact = torch.promote_types(head.hidden.dtype, torch.float32)
        self.wanted = wanted
        bias = head.hidden.new_empty(0) if head.bias is None else head.bias
        inputs = zip((head.hidden, head.weight, bias), wanted, strict=True)
        self.hidden, self.weight, self.bias = (empty_like(x, want) for x, want in inputs)
        self.blocks = len(rows)
        self.of_gradients = memory.Scratch()
        self.of_hidden = {at.start: self._total(self.hidden[at], len(columns)) for at in rows if wanted[0]}

    def room(self, z: Tensor, slope: Tensor | None, rows: slice) -> Tensor:
        """Where the gradient to these logits goes: over them, or beside them in the dtype that it is multiplied in."""
        if self.held is not None:
            return self.held[rows]
        # On a GPU a kernel that rounds as it writes spares a pass that does nothing else: 6 GB of 8,192 × 131,072.
        factor = self.head.factor_of_gradients()
        if not z.is_cuda or slope is not None or factor in (None, z.dtype):
            return z
        assert factor is not None
        return products.aligned(self.of_gradients.empty, len(z), z.shape[1], factor, z.device)

    def _total(self, result: Tensor, count: int) -> products.Total:
        return products.total(result, self.exact, count)

    @contextmanager
    def over(self, columns: slice) -> Iterator[Callable[[slice, Tensor, Tensor | None], None]]:
        """A function that takes the gradients to the logits of rows × these columns back to the inputs.

        It may overwrite the gradient that it is given; the third argument is ``Head.slope``.
        """
        head, (_, of_weight, of_bias) = self.head, self.wanted
        factor = head.factor_of_gradients()
        part = head.weight[columns].to(factor)
        weight = self._total(self.weight[columns], self.blocks) if of_weight else None
        bias = torch.zeros_like(self.bias[columns], dtype=self.exact) if of_bias else None

        def add(rows: slice, grad: Tensor, slope: Tensor | None) -> None:
            if slope is not None:
                grad.mul_(slope)
            if bias is not None:
                bias.add_(grad.sum(dim=0, dtype=self.exact))
            grad = grad.to(factor or grad.dtype)
            if self.of_hidden:
                self.of_hidden[rows.start].add(grad, part)
            if weight is not None:
                weight.add(grad.T, head.hidden[rows].to(factor))

        if self.held is None:
            yield add
        else:
            yield lambda rows, grad, slope: None
            add(slice(0, len(head.hidden)), self.held, None)
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
    height = min(len(head.hidden), BLOCK_ROWS if head.hidden.device.type == "cpu" else BLOCK_ROWS_ELSEWHERE)
    across = max(1, _logits_per_model(head, models, workspace) // max(1, height) // LEAST_COLUMNS)
    units = -(-len(head.weight) // LEAST_COLUMNS)
    even = -(-units // -(-units // across)) if units else 1
    return slices(len(head.hidden), height), slices(len(head.weight), even * LEAST_COLUMNS)


def bands(head: Head, models: float, workspace: int, width: int) -> list[slice]:
    """Row blocks that fit the workspace with all their columns, of which there are ``width``."""
    height = _logits_per_model(head, models, workspace) // max(1, width)
    return slices(len(head.hidden), height - height % LEAST_COLUMNS if height > LEAST_COLUMNS else height)


def worth_holding(head: Head, wanted: Sequence[bool], rows: Sequence[slice]) -> bool:
    """Whether the gradients to all logits take no more memory than the sum that they would be added up in."""
    # At 8,192 × 131,072 × 4,096 both are 2.1 GB; the sum is zeroed, read and written for each block of rows, and
    # rounded in a pass of its own. On an H100 67.8 ms and 6.3 GB became 61.5 ms and 5.5 GB (2 GiB of logits at a time).
    _, of_weight, of_bias = wanted
    return (
        head.hidden.is_cuda
        and of_weight
        and not of_bias
        and head.softcap == 0
        and head.scale == 1
        and len(rows) > 1
        and head.hidden.dtype in products.HALVES
        and head.factor_of_gradients() == head.hidden.dtype == head.weight.dtype
        and len(head.hidden) <= 2 * head.hidden.shape[1]
    )


def default_workspace(device: torch.device) -> int:
    """Bytes of logits held at a time, unless told otherwise."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // SHARE_OF_GPU
    return WORKSPACE_BYTES.get(device.type, WORKSPACE_BYTES_ELSEWHERE)


def _logits_per_model(head: Head, models: float, workspace: int) -> int:
    """How many logits of each model are held at a time."""
    budget = workspace or default_workspace(head.hidden.device)
    itemsize = 2 if head.half and not head.hidden.is_cuda else max(4, head.hidden.dtype.itemsize)
    return int(budget / (models * itemsize))
