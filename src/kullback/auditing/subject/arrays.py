"""Functions of torch, JAX or NumPy arrays, called on torch tensors with gradients kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kullback.arrays import Array, is_torch, to_numpy
from kullback.errors import MissingPackageError

Function = Callable[..., Any]
Call = Callable[[dict[str, Array]], Array]


@dataclass(frozen=True)
class Wires:
    """Which column each parameter takes."""

    positional: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """Every column that is handed over."""
        return {*self.positional, *self.named.values()}

    def call(self, fn: Function, given: Mapping[str, Any]) -> Any:
        """fn of the columns."""
        named = {name: given[column] for name, column in self.named.items()}
        return fn(*(given[column] for column in self.positional), **named, **self.constants)


class CallFailed(Exception):
    """A function that could not be audited: the code of the finding, and one sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def failure(error: BaseException) -> CallFailed:
    """What an exception of the function is as a finding."""
    text = " ".join(str(error).split())[:200]
    gpu = ("cuda", "nvidia", "triton", "hip", "xpu", "rocm")
    if any(word in text.lower() for word in gpu):
        return CallFailed("KB003", f"the function needs a GPU: {type(error).__name__}: {text}")
    if "numpy" in text.lower() and "grad" in text.lower():
        text += " (for a function of NumPy arrays pass arrays='numpy', --arrays numpy)"
    elif isinstance(error, NameError):
        text += " (a name that the function uses could not be resolved here)"
    return CallFailed("KB001", f"the function raised {type(error).__name__}: {text or 'without a message'}")


def differentiate(value: Array, inputs: Sequence[Array]) -> list[Array]:
    """d value / d inputs, zeros where there is no path; an error of the function's own backward pass is its."""
    import torch

    if not value.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    try:
        found = torch.autograd.grad(value, list(inputs), retain_graph=True, allow_unused=True)
    except Exception as error:
        raise failure(error) from error
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def as_tensor(result: Any) -> Array:
    """A function's result as a float64 tensor that keeps its gradient."""
    import torch

    if is_torch(result):
        return result
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


def _torch(fn: Function, wires: Wires) -> Call:
    def call(given: dict[str, Array]) -> Array:
        before = {name: array.detach().clone() for name, array in given.items()}
        with _eager():
            result = wires.call(fn, given)
        for name, array in given.items():
            if array.shape != before[name].shape or not _same(array.detach(), before[name]):
                raise CallFailed("KB004", f"the function changes its input {name} in place, and its caller needs it")
        return as_tensor(result)

    return call


def _same(a: Array, b: Array) -> bool:
    import torch

    return bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))


def _eager() -> Any:
    """Nothing is compiled: every world has its own shape, and compiling takes longer than the audit."""
    import contextlib

    import torch

    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance is not None else contextlib.nullcontext()


def _numpy(fn: Function, wires: Wires) -> Call:
    def call(given: dict[str, Array]) -> Array:
        return as_tensor(wires.call(fn, {name: to_numpy(array).copy() for name, array in given.items()}))

    return call


def _jax(fn: Function, wires: Wires) -> Call:
    try:
        import jax
    except ImportError as error:
        raise MissingPackageError("jax", "jax") from error
    import torch

    def run(live: dict[str, Any], fixed: dict[str, Any]) -> Any:
        return jax.numpy.asarray(wires.call(fn, {**live, **fixed}))

    def pull(live: dict[str, Any], fixed: dict[str, Any], weight: Any) -> Any:
        return jax.vjp(lambda arrays: run(arrays, fixed), live)[1](weight)[0]

    # Compiled whole: operation by operation, every shape of every world would be compiled many times over.
    forward, backward = _compiled(jax, run), _compiled(jax, pull)

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, names: list[str], fixed: dict[str, Any], *tensors: Array) -> Array:
            with _wide(jax):
                ctx.live, ctx.fixed = {n: _to_jax(jax, t) for n, t in zip(names, tensors, strict=True)}, fixed
                result = forward(ctx.live, fixed)
                ctx.names, ctx.dtype, ctx.types = names, result.dtype, [t.dtype for t in tensors]
                return torch.from_numpy(np.array(result, dtype=np.float64))

        @staticmethod
        def backward(ctx: Any, *grads: Array) -> Any:
            with _wide(jax):
                weight = jax.numpy.asarray(grads[0].numpy(), dtype=ctx.dtype)
                pulled = backward(ctx.live, ctx.fixed, weight)
                found = (torch.from_numpy(np.array(pulled[name], dtype=np.float64)) for name in ctx.names)
                return None, None, *(g.to(t) for g, t in zip(found, ctx.types, strict=True))

    def call(given: dict[str, Array]) -> Array:
        live = [name for name, array in given.items() if array.is_floating_point()]
        with _wide(jax):
            fixed = {name: _to_jax(jax, array) for name, array in given.items() if name not in live}
        found: Array = Through.apply(live, fixed, *(given[name] for name in live))  # type: ignore[no-untyped-call]
        return found

    return call


def _to_jax(jax: Any, array: Array) -> Any:
    if "bfloat16" in str(array.dtype):
        return jax.numpy.asarray(array.detach().float().numpy(), dtype="bfloat16")
    return jax.numpy.asarray(array.detach().numpy())


def _compiled(jax: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn under jit, or as it is where it looks at the values of its arrays."""
    jitted = jax.jit(fn)

    def call(*args: Any) -> Any:
        try:
            return jitted(*args)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            return fn(*args)

    return call


def _wide(jax: Any) -> Any:
    """float64, for as long as the audit looks."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


BRIDGES: dict[str, Callable[[Function, Wires], Call]] = {"torch": _torch, "jax": _jax, "numpy": _numpy}
"""By the arrays that the audited function takes."""
