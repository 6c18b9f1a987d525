"""How the rows of a batch lie in memory: padded to one width, a list of rows, or one array of all counted tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kullback.auditing.subject.tensors import result_tensor

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

Layout = Literal["padded", "ragged", "packed"]


class Laid(Protocol):
    """Columns on their way to a function, and its result on its way back."""

    def out(self, array: Tensor) -> Any:
        """A column as the function takes it."""
        ...

    def back(self, result: object) -> Tensor:
        """What the function returned as a tensor of padded rows, of rows, or of nothing."""
        ...


class Ragged:
    """A list of rows of their own lengths."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask.bool()

    def out(self, array: Tensor) -> Any:
        """A list of what counts in each row; a number a row stays as it is."""
        if array.shape[:2] != self._mask.shape:
            return array
        return [row[counted] for row, counted in zip(array, self._mask, strict=True)]

    def back(self, result: object) -> Tensor:
        """A list of rows padded again, or of one number each stacked."""
        import torch

        if not isinstance(result, list | tuple) or len(result) != len(self._mask):
            return result_tensor(result)
        rows = [result_tensor(row) for row in result]
        if all(row.numel() == 1 for row in rows) and not all(int(counted.sum()) == 1 for counted in self._mask):
            return torch.stack([row.reshape(()) for row in rows])
        padded = torch.zeros(self._mask.shape, dtype=rows[0].dtype)
        index = self._mask.nonzero(as_tuple=True)
        return padded.index_put(index, torch.cat([row.reshape(-1) for row in rows]))


class Packed:
    """One array of all the counted tokens, row after row."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask.bool()

    def out(self, array: Tensor) -> Any:
        """What counts, in one array; a number a row stays as it is."""
        return array[self._mask] if array.shape[:2] == self._mask.shape else array

    def back(self, result: object) -> Tensor:
        """One number a token padded again."""
        import torch

        found = result_tensor(result)
        if found.ndim != 1 or len(found) != int(self._mask.sum()):
            return found
        padded = torch.zeros(self._mask.shape, dtype=found.dtype)
        return padded.index_put(self._mask.nonzero(as_tuple=True), found)


LAYOUTS: dict[Layout, Callable[[Tensor], Laid]] = {"ragged": Ragged, "packed": Packed}
"""What lays a batch out, by the name of a layout that is not padded."""
