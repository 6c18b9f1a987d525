"""The same function without one kind of operation: how a repair is computed and not guessed."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

Patch = Literal["half", "detach", "clamp"]
"""What is left out: rounding to half precision, cutting the graph, or clamping."""

CLAMPS = frozenset(
    {"clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_", "hardtanh"}
)
BOUNDS = frozenset({"minimum", "maximum", "min", "max"})
"""Clamps where one side is a number."""

CUTS = frozenset({"detach", "detach_"})
HALVES = frozenset({"bfloat16", "half"})


def without(*patches: Patch) -> contextlib.AbstractContextManager[object]:
    """A context in which torch leaves these operations out."""
    if not patches:
        return contextlib.nullcontext()
    from torch.overrides import TorchFunctionMode

    class Without(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if ("clamp" in patches and name in CLAMPS) or ("detach" in patches and name in CUTS):
                return args[0]
            if "clamp" in patches and name in BOUNDS and (rest := _unbounded(args)) is not None:
                return rest
            if "half" in patches:
                if name in HALVES:
                    return args[0]
                args, kwargs = _widened(args, kwargs or {})
            return func(*args, **(kwargs or {}))

    mode: contextlib.AbstractContextManager[object] = Without()
    return mode


def _unbounded(args: tuple[Any, ...]) -> Any:
    """The array of an array and a number, or None."""
    import torch

    if len(args) != 2 or not all(isinstance(arg, torch.Tensor) for arg in args):
        return None
    arrays = [arg for arg in args if arg.ndim > 0]
    return arrays[0] if len(arrays) == 1 else None


def _widened(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in which the dtype of the first one stands where a half precision was asked for."""
    import torch

    halves = (torch.bfloat16, torch.float16)
    own = args[0].dtype if args and isinstance(args[0], torch.Tensor) else torch.float64

    def wide(value: Any) -> Any:
        return own if isinstance(value, torch.dtype) and value in halves else value

    return tuple(map(wide, args)), {name: wide(value) for name, value in kwargs.items()}
