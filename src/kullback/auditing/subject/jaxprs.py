"""Evaluating what JAX traced, operation by operation in NumPy: XLA compiles a shape in 0.1 s, and worlds have many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, JaxprEqn

    Operation = Callable[..., npt.ArrayLike]

Value = npt.NDArray[Any]

CALLS = frozenset({"pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"})
"""Primitives that stand for a function of their own."""


def evaluate(traced: ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
    """What a traced function gives for some arrays."""
    jaxpr, known = traced.jaxpr, dict[Any, Value]()
    known.update(zip(jaxpr.constvars, map(np.asarray, traced.consts), strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def value(variable: Any) -> Value:
        return np.asarray(variable.val, variable.aval.dtype) if hasattr(variable, "val") else known[variable]

    with np.errstate(all="ignore"):
        for step in jaxpr.eqns:
            results = _results(step, [value(variable) for variable in step.invars])
            for variable, result in zip(step.outvars, results, strict=True):
                known[variable] = np.asarray(result).astype(variable.aval.dtype, copy=False)
    return [value(variable) for variable in jaxpr.outvars]


def _results(step: JaxprEqn, values: Sequence[Value]) -> Sequence[npt.ArrayLike]:
    name = step.primitive.name
    if name in CALLS and (inner := step.params.get("jaxpr", step.params.get("call_jaxpr"))) is not None:
        return evaluate(inner, values)
    operation = OPERATIONS.get(name)
    if operation is not None:
        return [operation(*values, **{k: step.params[k] for k in PARAMETERS.get(name, ())})]
    # What has no line in the table is JAX's own, and compiled.
    bind: Operation = step.primitive.bind
    found: Any = bind(*values, **step.params)
    return list(found) if step.primitive.multiple_results else [found]


def _select(which: Value, *cases: Value) -> Value:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


def _broadcast(x: Value, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]) -> Value:
    kept = [1] * len(shape)
    for own, dimension in enumerate(broadcast_dimensions):
        kept[dimension] = x.shape[own]
    return np.broadcast_to(x.reshape(kept), shape)


def _slice(x: Value, start_indices: Sequence[int], limit_indices: Sequence[int], strides: Any) -> Value:
    steps = strides or [1] * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


def _iota(dtype: Any, shape: tuple[int, ...], dimension: int) -> Value:
    along = [1] * len(shape)
    along[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(along), shape)


def _running(ufunc: np.ufunc) -> Operation:
    def run(x: Value, axis: int, reverse: bool) -> Value:
        given = np.flip(x, axis) if reverse else x
        found: Value = ufunc.accumulate(given, axis)
        return np.flip(found, axis) if reverse else found

    return run


def _reduced(ufunc: np.ufunc) -> Operation:
    return lambda x, axes: ufunc.reduce(x, axis=tuple(axes))


def _not(x: Value) -> Value:
    return np.logical_not(x) if x.dtype == bool else np.invert(x)


OPERATIONS: dict[str, Operation] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: np.divide(a, b) if a.dtype.kind not in "iu" else np.trunc(np.divide(a, b)),
    "neg": np.negative,
    "sign": np.sign,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "pow": np.power,
    "integer_pow": lambda x, y: np.power(x, y) if y >= 0 else 1 / np.power(x, -y),
    "max": np.maximum,
    "min": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": _not,
    "is_finite": np.isfinite,
    "select_n": _select,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "convert_element_type": lambda x: x,
    "stop_gradient": lambda x: x,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
    "broadcast_in_dim": _broadcast,
    "reshape": lambda x, new_sizes: x.reshape(new_sizes),
    "squeeze": lambda x, dimensions: np.squeeze(x, tuple(dimensions)),
    "expand_dims": lambda x, dimensions: np.expand_dims(x, tuple(dimensions)),
    "transpose": lambda x, permutation: np.transpose(x, permutation),
    "rev": lambda x, dimensions: np.flip(x, tuple(dimensions)),
    "concatenate": lambda *parts, dimension: np.concatenate(parts, dimension),
    "slice": _slice,
    "iota": _iota,
    "reduce_sum": _reduced(np.add),
    "reduce_max": _reduced(np.maximum),
    "reduce_min": _reduced(np.minimum),
    "reduce_prod": _reduced(np.multiply),
    "reduce_and": _reduced(np.logical_and),
    "reduce_or": _reduced(np.logical_or),
    "cumsum": _running(np.add),
    "cumprod": _running(np.multiply),
    "cummax": _running(np.maximum),
    "cummin": _running(np.minimum),
}
"""The primitives that KL code is made of; what each returns takes the dtype that JAX says."""

PARAMETERS: dict[str, tuple[str, ...]] = {
    "integer_pow": ("y",),
    "broadcast_in_dim": ("shape", "broadcast_dimensions"),
    "reshape": ("new_sizes",),
    "squeeze": ("dimensions",),
    "expand_dims": ("dimensions",),
    "transpose": ("permutation",),
    "rev": ("dimensions",),
    "concatenate": ("dimension",),
    "slice": ("start_indices", "limit_indices", "strides"),
    "iota": ("dtype", "shape", "dimension"),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"), ("axes",)),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin"), ("axis", "reverse")),
}
"""What of a primitive's parameters its operation takes."""
