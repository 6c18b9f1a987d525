"""What comes as a tensor or as something that is made one: NumPy and JAX arrays, and lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kullback.arrays import is_jax, to_numpy
from kullback.errors import InputError


def tensor_of(x: Any, name: str) -> Tensor:
    """A tensor as it is, an array or a table of numbers as a tensor on the CPU.

    Raises:
        InputError: neither.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array, but every number counts here: fill it, or leave the rows out")
    try:
        if is_jax(x):
            array = to_numpy(x)
        elif isinstance(x, list | tuple) and x and all(isinstance(part, Tensor) for part in x):
            return torch.stack([part for part in x if isinstance(part, Tensor)])
        else:
            array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"it holds {array.dtype}")
        return torch.tensor(array)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} is a {type(x).__name__} of which no tensor is made ({reason}): pass a torch tensor, a NumPy "
            "array or rows of numbers of one length"
        ) from error
