"""The array library of the inputs, and the few things the array API standard leaves out."""

from __future__ import annotations

import sys
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from kullback.errors import InputError

Array = Any
"""A NumPy, torch or JAX array (or any array of the array API standard)."""

Float64 = npt.NDArray[np.float64]


def is_torch(x: object) -> bool:
    """Whether x is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_jax(x: object) -> bool:
    """Whether x is a JAX array; never imports JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def namespace(*arrays: Array) -> Any:
    """The array-API namespace that all arrays share."""
    if is_torch(arrays[0]):
        import array_api_compat.torch as xp

        return xp
    return array_api_compat.array_namespace(*arrays)


def stop_gradient(x: Array) -> Array:
    """The same numbers, through which no gradient flows."""
    if is_torch(x):
        return x.detach()
    if is_jax(x):
        return sys.modules["jax"].lax.stop_gradient(x)
    return x


def cumulative_sum(x: Array) -> Array:
    """Sums along the last axis; the compat layer's own version does not trace under torch.compile."""
    xp = namespace(x)
    return xp.cumsum(x, axis=-1) if is_torch(x) or is_jax(x) else xp.cumulative_sum(x, axis=-1)


def at_least_float32(x: Array, name: str = "log_ratio") -> Array:
    """x as an array in float32 or wider: half precision is widened, Python numbers become float64.

    Raises:
        InputError: x does not hold real floating-point numbers.
    """
    if isinstance(x, float | int | list | tuple):
        x = np.asarray(x, dtype=np.float64)
    xp = namespace(x)
    if str(x.dtype).endswith("float16"):
        return xp.astype(x, xp.float32)
    if not xp.isdtype(x.dtype, "real floating"):
        raise InputError(f"{name} holds {x.dtype}, but floating-point numbers in nats are needed: convert it first")
    return x


def to_numpy(x: Array) -> npt.NDArray[Any]:
    """x on the host as NumPy, without its gradient; bfloat16 and float16 come as float32."""
    if is_torch(x):
        x = x.detach().cpu()
        return np.asarray((x.float() if str(x.dtype).endswith("float16") else x).numpy())
    array: npt.NDArray[Any] = np.asarray(x)
    return array.astype(np.float32) if str(array.dtype).endswith("float16") else array
