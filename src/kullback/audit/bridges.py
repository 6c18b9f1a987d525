"""Functions of torch, JAX or NumPy arrays, called on torch tensors with gradients kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kullback._namespace import Array, is_torch, to_numpy
from kullback.errors import MissingPackageError

Bridge = Callable[[Callable[..., Any], tuple[str, ...], Mapping[str, str], Mapping[str, Any], dict[str, Array]], Array]


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


def _torch(
    fn: Callable[..., Any],
    positional: tuple[str, ...],
    named: Mapping[str, str],
    constants: Mapping[str, Any],
    given: dict[str, Array],
) -> Array:
    before = {name: array.detach().clone() for name, array in given.items()}
    with _eager():
        result = fn(*(given[c] for c in positional), **{name: given[c] for name, c in named.items()}, **dict(constants))
    for name, array in given.items():
        if array.shape != before[name].shape or not _same(array.detach(), before[name]):
            raise CallFailed("KB004", f"the function changes its input {name} in place, which the caller still needs")
    return as_tensor(result)


def _same(a: Array, b: Array) -> bool:
    import torch

    return bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))


def _eager() -> Any:
    """Nothing is compiled: every world has its own shape, and compiling takes longer than the audit."""
    import contextlib

    import torch

    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance is not None else contextlib.nullcontext()


def _numpy(
    fn: Callable[..., Any],
    positional: tuple[str, ...],
    named: Mapping[str, str],
    constants: Mapping[str, Any],
    given: dict[str, Array],
) -> Array:
    host = {name: to_numpy(array).copy() for name, array in given.items()}
    result = fn(*(host[c] for c in positional), **{name: host[c] for name, c in named.items()}, **dict(constants))
    return as_tensor(result)


def _jax(
    fn: Callable[..., Any],
    positional: tuple[str, ...],
    named: Mapping[str, str],
    constants: Mapping[str, Any],
    given: dict[str, Array],
) -> Array:
    try:
        import jax
    except ImportError as error:
        raise MissingPackageError("jax", "jax") from error
    import torch

    live = [name for name, array in given.items() if array.is_floating_point()]
    half = any("bfloat16" in str(given[name].dtype) for name in live)

    def wrapped(*arrays: Any) -> Any:
        have = {**fixed, **dict(zip(live, arrays, strict=True))}
        return fn(*(have[c] for c in positional), **{n: have[c] for n, c in named.items()}, **dict(constants))

    def to_jax(array: Array) -> Any:
        host = array.detach().float().numpy() if half and array.is_floating_point() else array.detach().numpy()
        return (
            jax.numpy.asarray(host, dtype="bfloat16") if half and array.is_floating_point() else jax.numpy.asarray(host)
        )

    class Call(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Array) -> Array:
            with _wide(jax):
                result, ctx.pull = jax.vjp(wrapped, *map(to_jax, tensors))
                ctx.dtype = result.dtype
                return torch.from_numpy(np.array(result, dtype=np.float64 if not half else np.float32))

        @staticmethod
        def backward(ctx: Any, *grads: Array) -> Any:
            with _wide(jax):
                pulled = ctx.pull(jax.numpy.asarray(grads[0].numpy(), dtype=ctx.dtype))
                return tuple(torch.from_numpy(np.array(g, dtype=np.float64)) for g in pulled)

    with _wide(jax):
        fixed = {name: to_jax(array) for name, array in given.items() if name not in live}
    found: Array = Call.apply(*(given[name] for name in live))  # type: ignore[no-untyped-call]
    return found


def _wide(jax: Any) -> Any:
    """float64, for as long as the audit looks."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


BRIDGES: dict[str, Bridge] = {"torch": _torch, "jax": _jax, "numpy": _numpy}
"""By the arrays that the audited function takes."""
