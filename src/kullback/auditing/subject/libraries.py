"""Functions of torch, JAX or NumPy arrays, called on torch tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kullback.arrays import to_numpy
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.tensors import result_tensor
from kullback.auditing.subject.wiring import Wires

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

    Call = Callable[[Columns], Tensor]


def _torch_call(fn: Function, wires: Wires) -> Call:
    def call(given: Columns) -> Tensor:
        before = {name: array.detach().clone() for name, array in given.items()}
        with _uncompiled():
            result: object = wires.call(fn, given)
        for name, array in given.items():
            if array.shape != before[name].shape or not _same(array.detach(), before[name]):
                raise CallFailed("KB004", f"the function changes its input {name} in place, and its caller needs it")
        return result_tensor(result, rows=_rows(given))

    return call


def _rows(given: Columns) -> int:
    return len(next(iter(given.values()), ()))


def _same(a: Tensor, b: Tensor) -> bool:
    import torch

    return bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Nothing is compiled: every world has its own shape, and compiling takes longer than the audit."""
    import torch

    stance = getattr(torch.compiler, "set_stance", None)
    return contextlib.nullcontext() if stance is None else stance("force_eager")


def _numpy_call(fn: Function, wires: Wires) -> Call:
    def call(given: Columns) -> Tensor:
        arrays = {name: to_numpy(array).copy() for name, array in given.items()}
        return result_tensor(wires.call(fn, arrays), rows=_rows(given))

    return call


def _jax_call(fn: Function, wires: Wires) -> Call:
    from kullback.auditing.subject.jax_functions import JaxFunction

    return JaxFunction(fn, wires)


CALLS: dict[str, Callable[[Function, Wires], Call]] = {"torch": _torch_call, "jax": _jax_call, "numpy": _numpy_call}
"""What calls a function on tensors, by the arrays that it takes."""
