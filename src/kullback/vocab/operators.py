"""Custom operators that are plain functions where nothing is traced or differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


@dataclass(frozen=True)
class Operator:
    """A function of tensors and the custom operator that is made of it.

    The first call of any custom operator imports torch's compiler: 2 of the 6 seconds that a first comparison took.
    In inference mode there is neither autograd nor, unless something is compiled, anything to be opaque to.
    """

    function: Callable[..., Tensor]
    custom: CustomOpDef

    def __call__(self, *args: object, **options: object) -> Tensor:
        """What the function returns."""
        if plainly():
            return self.function(*args, **options)
        found: Tensor = self.custom(*args, **options)
        return found


def plainly() -> bool:
    """Whether nothing is traced or differentiated, so that a function need not be an operator."""
    # In this order: torch.compile cannot trace the second question.
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def operator(name: str) -> Callable[[Callable[..., Tensor]], Operator]:
    """Make an operator with this name of a function that changes none of its arguments."""

    def made(function: Callable[..., Tensor]) -> Operator:
        return Operator(function, torch.library.custom_op(name, mutates_args=())(function))

    return made
