"""Evaluating what JAX traced, operation by operation in NumPy: XLA compiles a shape in 0.1 s, and worlds have many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kullback.auditing.subject.jax_indexing import gather, scattered

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, JaxprEqn

    Operation = Callable[..., npt.ArrayLike]

Value = npt.NDArray[Any]

CALLS = frozenset({"pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"})
"""Primitives that stand for a function of their own."""

LONGEST = 150
"""Steps of a scan beyond which XLA compiles it: a step takes 0.2 ms here, and a compilation 50 and more."""

QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""How: each is run once or twice, and to compile takes half as long like this."""


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
    if name in CONTROL and step.params.get("length", 0) <= LONGEST:
        return CONTROL[name](step.params, values)
    operation = OPERATIONS.get(name)
    if operation is not None:
        return [operation(*values, **{k: step.params[k] for k in PARAMETERS.get(name, ())})]
    # What has no line in the table is JAX's own, and compiled.
    bind: Operation = step.primitive.bind
    found: Any = _compiled(step)(*values) if name in CONTROL else bind(*values, **step.params)
    return list(found) if step.primitive.multiple_results else [found]


@lru_cache(maxsize=128)
def _compiled(step: JaxprEqn) -> Callable[..., Any]:
    """A loop as XLA runs it."""
    import jax

    shapes = [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in step.invars]
    traced = jax.jit(lambda *values: step.primitive.bind(*values, **step.params)).lower(*shapes)
    compiled: Callable[..., Any] = traced.compile(compiler_options=QUICKLY)
    return compiled


def _scan(params: Mapping[str, Any], values: Sequence[Value]) -> list[Value]:
    """`jax.lax.scan`, step by step: its constants, what is carried on, and what is walked along."""
    start = params["num_consts"] + params["num_carry"]
    fixed, carried, along = values[: params["num_consts"]], values[params["num_consts"] : start], values[start:]
    steps = range(params["length"])
    kept: list[list[Value]] = []
    for step in reversed(steps) if params["reverse"] else steps:
        found = evaluate(params["jaxpr"], [*fixed, *carried, *(array[step] for array in along)])
        carried = found[: params["num_carry"]]
        kept.append(found[params["num_carry"] :])
    if params["reverse"]:
        kept.reverse()
    made = params["jaxpr"].out_avals[params["num_carry"] :]
    columns = list(zip(*kept, strict=True)) if kept else [() for _ in made]
    stacked = [
        np.stack(column) if column else np.zeros((0, *one.shape), one.dtype)
        for column, one in zip(columns, made, strict=True)
    ]
    return [*carried, *stacked]


def _while(params: Mapping[str, Any], values: Sequence[Value]) -> list[Value]:
    """`jax.lax.while_loop` and what becomes of `fori_loop`."""
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    asked, fixed = values[:tests], values[tests : tests + bodies]
    carried = list(values[tests + bodies :])
    while evaluate(params["cond_jaxpr"], [*asked, *carried])[0]:
        carried = evaluate(params["body_jaxpr"], [*fixed, *carried])
    return carried


def _cond(params: Mapping[str, Any], values: Sequence[Value]) -> list[Value]:
    """`jax.lax.cond` and `switch`: an index out of range is the last or first branch's, as in XLA."""
    branches = params["branches"]
    return evaluate(branches[int(np.clip(values[0], 0, len(branches) - 1))], values[1:])


def _split(params: Mapping[str, Any], values: Sequence[Value]) -> list[Value]:
    return np.split(values[0], np.cumsum(params["sizes"])[:-1], params["axis"])


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


def _at(shape: Sequence[int], sizes: Sequence[int], starts: Sequence[Value]) -> tuple[slice, ...]:
    """A window that starts where it is asked for, or as near as it fits."""
    firsts = [int(np.clip(start, 0, length - size)) for start, length, size in zip(starts, shape, sizes, strict=True)]
    return tuple(slice(first, first + size) for first, size in zip(firsts, sizes, strict=True))


def _dynamic_slice(x: Value, *starts: Value, slice_sizes: Sequence[int]) -> Value:
    return x[_at(x.shape, slice_sizes, starts)]


def _dynamic_update_slice(x: Value, update: Value, *starts: Value) -> Value:
    result = x.copy()
    result[_at(x.shape, update.shape, starts)] = update
    return result


def _pad(x: Value, filling: Value, padding_config: Sequence[tuple[int, int, int]]) -> Value:
    """Numbers put before, behind and between; negative ones take away."""
    dimensions = zip(x.shape, padding_config, strict=True)
    shape = [max(low + high + n + max(n - 1, 0) * inner, 0) for n, (low, high, inner) in dimensions]
    result = np.full(shape, filling, x.dtype)
    ours, theirs = [], []
    for n, length, (low, _, inner) in zip(x.shape, shape, padding_config, strict=True):
        places = low + np.arange(n) * (inner + 1)
        kept = (places >= 0) & (places < length)
        ours.append(places[kept])
        theirs.append(np.arange(n)[kept])
    result[np.ix_(*ours)] = x[np.ix_(*theirs)]
    return result


def _dot_general(a: Value, b: Value, dimension_numbers: Any) -> Value:
    """Batched dimensions, then a's own, then b's."""
    (a_summed, b_summed), (a_batch, b_batch) = dimension_numbers
    names = {("b", d): a.ndim + d for d in range(b.ndim)} | {("a", d): d for d in range(a.ndim)}
    shared = [*zip(a_summed, b_summed, strict=True), *zip(a_batch, b_batch, strict=True)]
    names |= {("b", theirs): ours for ours, theirs in shared}
    own = [d for d in range(a.ndim) if d not in (*a_summed, *a_batch)]
    other = [names["b", d] for d in range(b.ndim) if d not in (*b_summed, *b_batch)]
    of_a, of_b = list(range(a.ndim)), [names["b", d] for d in range(b.ndim)]
    found: Value = np.einsum(_wider(a), of_a, _wider(b), of_b, [*a_batch, *own, *other])
    return found


def _wider(x: Value) -> Value:
    """Half precision as float32, in which XLA sums products too; NumPy knows no bfloat16 here."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "biu" else x


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
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "rem": np.fmod,
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
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": gather,
    "scatter": scattered(lambda x, places, updates: x.__setitem__(places, updates)),
    "scatter-add": scattered(np.add.at),
    "scatter-mul": scattered(np.multiply.at),
    "dot_general": _dot_general,
    "argmax": lambda x, axes: np.argmax(x, *axes),
    "argmin": lambda x, axes: np.argmin(x, *axes),
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

CONTROL: dict[str, Callable[[Mapping[str, Any], Sequence[Value]], list[Value]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "split": _split,
}
"""The primitives of several results, most of which run functions of their own."""

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
    "pad": ("padding_config",),
    "dynamic_slice": ("slice_sizes",),
    "gather": ("dimension_numbers", "slice_sizes", "mode", "fill_value"),
    **dict.fromkeys(("scatter", "scatter-add", "scatter-mul"), ("dimension_numbers", "mode")),
    "dot_general": ("dimension_numbers",),
    **dict.fromkeys(("argmax", "argmin"), ("axes",)),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"), ("axes",)),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin"), ("axis", "reverse")),
}
"""What of a primitive's parameters its operation takes."""
