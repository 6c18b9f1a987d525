"""Functions of JAX arrays as functions of torch tensors, with gradients by JAX's own reverse mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.jaxprs import evaluate
from kullback.auditing.subject.wiring import Wires
from kullback.errors import MissingPackageError

if TYPE_CHECKING:
    import jax
    import torch

    from kullback.auditing.subject.tensors import Columns, Tensor

    JaxColumns = Mapping[str, Any]


class JaxFunction:
    """Called on torch columns; keeps its gradient. `together`: on those of many batches, a leading dimension more.

    Raises:
        MissingPackageError: JAX is not installed.
    """

    def __init__(self, fn: Function, wires: Wires, *, together: bool = False) -> None:
        try:
            import jax
        except ImportError as error:
            raise MissingPackageError("jax", "jax") from error

        def once(live: JaxColumns, fixed: JaxColumns) -> jax.Array:
            return jax.numpy.asarray(wires.call(fn, {**live, **fixed}))

        forward = jax.vmap(once) if together else once

        def backward(live: JaxColumns, fixed: JaxColumns, weight: jax.Array) -> JaxColumns:
            pulled: JaxColumns = jax.vjp(lambda columns: forward(columns, fixed), live)[1](weight)[0]
            return pulled

        self._operation = _torch_operation(_traced(forward), _traced(backward))

    def __call__(self, given: Columns) -> Tensor:
        """The function of the columns, as a tensor that keeps its gradient."""
        live = {name: array for name, array in given.items() if array.is_floating_point()}
        with _float64():
            fixed = {name: _to_jax(array) for name, array in given.items() if name not in live}
        return self._operation(list(live), fixed, *live.values())


def _torch_operation(run: Callable[..., Any], pull: Callable[..., Any]) -> Callable[..., Tensor]:
    """An operation of torch's autograd whose both passes run in JAX."""
    import torch

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, names: list[str], fixed: JaxColumns, *tensors: torch.Tensor) -> torch.Tensor:
            with _float64():
                ctx.fixed = fixed
                ctx.live = {name: _to_jax(array) for name, array in zip(names, tensors, strict=True)}
                result = run(ctx.live, fixed)
                ctx.dtype, ctx.types = result.dtype, [array.dtype for array in tensors]
                return torch.from_numpy(np.array(result, dtype=np.float64))

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            with _float64():
                weight = grads[0].numpy().astype(ctx.dtype)
                pulled = pull(ctx.live, ctx.fixed, weight)
                found = (torch.from_numpy(np.array(pulled[name], dtype=np.float64)) for name in ctx.live)
                return None, None, *(g.to(dtype) for g, dtype in zip(found, ctx.types, strict=True))

    return Through.apply


def _to_jax(array: Tensor) -> npt.NDArray[Any]:
    """A column as NumPy has it, which JAX takes: bfloat16 by JAX's own type of that name."""
    import jax

    if "bfloat16" in str(array.dtype):
        return array.detach().float().numpy().astype(jax.numpy.bfloat16)
    return array.detach().numpy()


def _traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn as JAX traces it, once for every shape, or as it is where it looks at the values of its arrays."""
    import jax

    known: dict[object, tuple[Any, Any]] = {}

    def call(*columns: object) -> Any:
        leaves, structure = jax.tree.flatten(columns)
        key = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        try:
            if key not in known:
                known[key] = jax.make_jaxpr(fn, return_shape=True)(*columns)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            return fn(*jax.tree.map(jax.numpy.asarray, columns))
        jaxpr, shapes = known[key]
        return jax.tree.unflatten(jax.tree.structure(shapes), evaluate(jaxpr, leaves))

    return call


def _float64() -> AbstractContextManager[object]:
    """float64, for as long as the audit looks."""
    import jax

    # Where it stands depends on JAX's version.
    places = (getattr(module, "enable_x64", None) for module in (jax, jax.experimental))
    switch = next(place for place in places if place is not None)
    context: AbstractContextManager[object] = switch(True)
    return context
