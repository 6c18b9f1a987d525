"""Functions of torch, JAX or NumPy arrays, called on torch tensors."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import to_numpy
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.tensors import result_tensor
from kullback.auditing.subject.wiring import Wires

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

    Call = Callable[[Columns], Tensor]


def _torch_call(fn: Function, wires: Wires) -> Call:
    bare = bare_call(fn, wires)

    def call(given: Columns) -> Tensor:
        before = {name: array.detach().clone() for name, array in given.items()}
        result = bare(given)
        for name, array in given.items():
            if array.shape != before[name].shape or not _same(array.detach(), before[name]):
                raise changed(name)
        return result

    return call


def bare_call(fn: Function, wires: Wires) -> Call:
    """What calls a function of torch tensors without a look at what it does to them."""

    def call(given: Columns) -> Tensor:
        with _uncompiled():
            result: object = wires.call(fn, given)
        return result_tensor(result, rows=_rows(given))

    return call


def changed(name: str) -> CallFailed:
    """What an input that is another one after the call comes to."""
    return CallFailed("KB004", f"the function changes its input {name} in place, and its caller needs it")


def _rows(given: Columns) -> int:
    return len(next(iter(given.values()), ()))


def _same(a: Tensor, b: Tensor) -> bool:
    import torch

    return bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Nothing is compiled: every world has its own shape, and compiling takes longer than the audit."""
    # What compiles has loaded the compiler; to load it for all else takes 2 seconds of CPU.
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    import torch

    stance = getattr(torch.compiler, "set_stance", None)
    return contextlib.nullcontext() if stance is None else stance("force_eager")


def _numpy_call(fn: Function, wires: Wires) -> Call:
    def call(given: Columns) -> Tensor:
        arrays = {name: to_numpy(array).copy() for name, array in given.items()}
        result = result_tensor(wires.call(fn, arrays), rows=_rows(given))
        for name, array in arrays.items():
            if not np.array_equal(array, to_numpy(given[name]), equal_nan=array.dtype.kind == "f"):
                raise changed(name)
        return result

    return call


def _jax_call(fn: Function, wires: Wires) -> Call:
    from kullback.auditing.subject.jax_functions import JaxFunction

    return JaxFunction(fn, wires)


def _torch_together(fn: Function, wires: Wires) -> Call:
    import torch

    together: Call = torch.vmap(bare_call(fn, wires))
    return together


def _jax_together(fn: Function, wires: Wires) -> Call:
    from kullback.auditing.subject.jax_functions import JaxFunction

    return JaxFunction(fn, wires, together=True)


CALLS: dict[str, Callable[[Function, Wires], Call]] = {"torch": _torch_call, "jax": _jax_call, "numpy": _numpy_call}
"""What calls a function on tensors, by the arrays that it takes."""

TOGETHER: dict[str, Callable[[Function, Wires], Call]] = {"torch": _torch_together, "jax": _jax_together}
"""What calls a function on many batches at once, (batches, batch, time), where that works."""
