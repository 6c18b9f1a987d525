"""The array library of the inputs, and the few things the array API standard leaves out."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeGuard, TypeVar, overload

import array_api_compat
import numpy as np
import numpy.typing as npt

from kullback.errors import InputError, ShapeError

if TYPE_CHECKING:
    import jax
    import torch


class Array(Protocol):
    """A NumPy, torch or JAX array (or any array of the array API standard): what this package does with one.

    What comes back from an operation is an array of the same library; dtypes and devices are the library's own.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        ...

    @property
    def dtype(self) -> Any:
        """The library's own name for what it holds."""
        ...

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Self: ...
    def __neg__(self) -> Self: ...
    def __invert__(self) -> Self: ...
    def __add__(self, other: Any, /) -> Self: ...
    def __radd__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __rsub__(self, other: Any, /) -> Self: ...
    def __mul__(self, other: Any, /) -> Self: ...
    def __rmul__(self, other: Any, /) -> Self: ...
    def __truediv__(self, other: Any, /) -> Self: ...
    def __rtruediv__(self, other: Any, /) -> Self: ...
    def __pow__(self, other: Any, /) -> Self: ...
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...
    def __float__(self) -> float: ...
    def __bool__(self) -> bool: ...


A = TypeVar("A", bound=Array)
"""One library's arrays: what goes in as NumPy, torch or JAX comes out as the same."""


class Elementwise(Protocol):
    """A function of every element by itself, for arrays of any library."""

    def __call__(self, x: A, /) -> A: ...


Numbers = Array | Sequence[Any] | float
"""What users hand over: an array, or Python numbers in lists."""

Groups = Array | Sequence[Hashable]
"""The prompt of each row: an array, or a list of names."""

Float64 = npt.NDArray[np.float64]


class Namespace(Protocol):
    """The functions of the array API standard that this package calls; `namespace` finds a library's own."""

    bool: Any
    float32: Any
    inf: float

    def abs(self, x: A, /) -> A: ...
    def any(self, x: A, /, *, axis: int | None = None) -> A: ...
    def arange(self, stop: int, /, *, dtype: Any = None, device: Any = None) -> Array: ...
    def argsort(self, x: A, /, *, axis: int = -1, descending: bool = False) -> A: ...
    def asarray(self, x: Any, /, *, dtype: Any = None, device: Any = None) -> Array: ...
    def astype(self, x: A, dtype: Any, /, *, copy: bool = True) -> A: ...
    def clip(self, x: A, /, min: Any = None, max: Any = None) -> A: ...
    def concat(self, arrays: Sequence[A], /, *, axis: int = 0) -> A: ...
    def cosh(self, x: A, /) -> A: ...
    def cumsum(self, x: A, /, *, axis: int) -> A: ...
    def cumulative_sum(self, x: A, /, *, axis: int) -> A: ...
    def equal(self, x: Array, y: Array, /) -> Array: ...
    def exp(self, x: A, /) -> A: ...
    def expm1(self, x: A, /) -> A: ...
    def finfo(self, dtype: Any, /) -> Any: ...
    def flip(self, x: A, /, *, axis: int) -> A: ...
    def isdtype(self, dtype: Any, kind: str, /) -> bool: ...
    def log(self, x: A, /) -> A: ...
    def log1p(self, x: A, /) -> A: ...
    def matmul(self, x: A, y: A, /) -> A: ...
    def max(self, x: A, /, *, axis: int | None = None, keepdims: bool = False) -> A: ...
    def mean(self, x: A, /, *, axis: int | None = None, keepdims: bool = False) -> A: ...
    def ones_like(self, x: A, /, *, dtype: Any = None) -> A: ...
    def reshape(self, x: A, shape: tuple[int, ...], /) -> A: ...
    def sinh(self, x: A, /) -> A: ...
    def sum(self, x: A, /, *, axis: int | None = None, keepdims: bool = False) -> A: ...
    def take(self, x: A, indices: Array, /, *, axis: int) -> A: ...
    def take_along_axis(self, x: A, indices: Array, /, *, axis: int) -> A: ...
    def where(self, condition: Array, x: A, y: A | float, /) -> A: ...
    def zeros_like(self, x: A, /, *, dtype: Any = None) -> A: ...


def is_torch(x: object) -> TypeGuard[torch.Tensor]:
    """Whether x is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_jax(x: object) -> TypeGuard[jax.Array]:
    """Whether x is a JAX array; never imports JAX."""
    jax = sys.modules.get("jax")
    # A tensor is none, and from 2.14 on torch.compile cannot ask JAX's metaclass about one.
    return jax is not None and not is_torch(x) and isinstance(x, jax.Array)


def namespace(*arrays: Array) -> Namespace:
    """The array-API namespace that all arrays share."""
    library: Any
    if is_torch(arrays[0]):
        import array_api_compat.torch as library
    else:
        library = array_api_compat.array_namespace(*arrays)
    found: Namespace = library
    return found


def stop_gradient(x: A) -> A:
    """The same numbers, through which no gradient flows."""
    fixed: Any = x.detach() if is_torch(x) else sys.modules["jax"].lax.stop_gradient(x) if is_jax(x) else x
    same: A = fixed
    return same


def cumulative_sum(x: A) -> A:
    """Sums along the last axis; the compat layer's own version does not trace under torch.compile."""
    xp = namespace(x)
    return xp.cumsum(x, axis=-1) if is_torch(x) or is_jax(x) else xp.cumulative_sum(x, axis=-1)


def inner(x: A, y: A) -> A:
    """Σ x·y over all entries, both of one shape, with its gradient; torch makes no array of the products."""
    if is_torch(x) and is_torch(y) and x.dtype == y.dtype:
        # Not vecdot or tensordot, which are matrix products and would round a gradient to TF32.
        flat: Any = x.reshape(-1)
        total: A = flat.dot(y.reshape(-1))
        return total
    return namespace(x).sum(x * y)


@overload
def at_least_float32(x: A, name: str = ...) -> A: ...
@overload
def at_least_float32(x: Numbers, name: str = ...) -> Array: ...
def at_least_float32(x: Numbers, name: str = "log_ratio") -> Array:
    """x as an array in float32 or wider: half precision is widened, Python numbers become float64.

    Raises:
        InputError: x does not hold real floating-point numbers.
    """
    array: Array = _of_python(x, name) if isinstance(x, float | int | Sequence) else x
    if not hasattr(array, "dtype"):
        raise InputError(f"{name} is a {type(x).__name__}, but an array or a list of floating-point numbers is needed")
    if isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {array.dtype}, but floating-point numbers in nats are needed: convert it first")
    xp = namespace(array)
    if is_half(array.dtype):
        return xp.astype(array, xp.float32)
    if not xp.isdtype(array.dtype, "real floating"):
        raise InputError(f"{name} holds {array.dtype}, but floating-point numbers in nats are needed: convert it first")
    return array


def _of_python(x: float | Sequence[Any], name: str) -> Float64:
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} is a list that is no table of numbers: pass rows of one length, or an array"
        ) from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} is a list with something else than numbers in it: floating-point numbers are needed")
    return array.astype(np.float64)


def is_half(dtype: object) -> bool:
    """Whether a dtype is narrower than float32."""
    name = str(dtype).rpartition(".")[2]
    return name.endswith("float16") or name.startswith("float8") or name.startswith("float4")


def check_shapes(logprobs: Array, others: Mapping[str, Array | None], name: str = "logprobs") -> None:
    """Hold that log-probs are (batch, time) with a row and a column, and that the other token arrays have their shape.

    Raises:
        ShapeError: they do not.
    """
    shape = tuple(logprobs.shape)
    if len(shape) != 2:
        raise ShapeError(
            f"{name} has shape {shape}, but (batch, time) is needed, one row a sequence"
            + (": add a batch dimension, logprobs[None, :]" if len(shape) == 1 else "")
        )
    for other, array in others.items():
        if array is not None and tuple(array.shape) != shape:
            raise ShapeError(
                f"{other} has shape {tuple(array.shape)} and {name} {shape}: "
                "all token arrays share one (batch, time) shape, and none is broadcast"
            )
    if 0 in shape:
        what = "no row came" if shape[0] == 0 else "rows without a token came"
        raise ShapeError(f"{name} has shape {shape}: {what}, but at least one sequence with a token is needed")


def equals(x: Array, number: float) -> Array:
    """Where x is a number; `==` on arrays, which a type checker takes for a bool."""
    values: Any = x
    found: Array = values == number
    return found


def can_look(x: Array) -> bool:
    """Whether the values of x are at hand: not while torch or JAX traces, compiles or captures a graph."""
    if is_torch(x):
        torch: Any = sys.modules["torch"]
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.is_meta:
            return False
        return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
    return not (is_jax(x) and isinstance(x, sys.modules["jax"].core.Tracer))


def to_numpy(x: Numbers) -> npt.NDArray[Any]:
    """x on the host as NumPy, without its gradient; half precision comes as float32."""
    if is_torch(x):
        x = x.detach().cpu()
        return np.asarray((x.float() if is_half(x.dtype) else x).numpy())
    array: npt.NDArray[Any] = np.asarray(x)
    return array.astype(np.float32) if is_half(array.dtype) else array
