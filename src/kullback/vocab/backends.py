"""Who computes a block: eager torch, torch.compile, or Triton."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from kullback.errors import InputError, MissingPackageError
from kullback.vocab.formulas import Divergence

BACKENDS = ("eager", "compile", "triton")
"""What ``backend=`` takes."""

Outputs = tuple[Tensor | None, Tensor | None]
"""Where the gradients to the logits of q and of p are written; None where one is not wanted."""


class BlockKernels(Protocol):
    """What a backend computes of one block of logits, (rows, columns): a module of these functions.

    The logits are z/T. Statistics are returned; gradients, which are as large as the block, are written to ``outs``
    or ``out``, which may be the logits themselves.
    """

    def pair_statistics(self, zq: Tensor, zp: Tensor, temperature: float, /) -> Tensor:
        """See ``formulas.pair_statistics``."""

    def pair_sums(
        self, zq: Tensor, zp: Tensor, normalisers: Tensor, /, *, divergence: Divergence, temperature: float
    ) -> Tensor:
        """See ``formulas.pair_sums``."""

    def pair_gradients(
        self,
        zq: Tensor,
        zp: Tensor,
        saved: Tensor,
        upstream: Tensor,
        /,
        *,
        divergence: Divergence,
        temperature: float,
        outs: Outputs,
    ) -> None:
        """See ``formulas.pair_gradients``."""

    def token_statistics(self, z: Tensor, index: Tensor, temperature: float, /) -> Tensor:
        """See ``formulas.token_statistics``."""

    def token_gradients(
        self,
        z: Tensor,
        index: Tensor,
        saved: Tensor,
        /,
        *,
        of_logprob: Tensor,
        of_entropy: Tensor,
        temperature: float,
        out: Tensor,
    ) -> None:
        """See ``formulas.token_gradients``."""


def block_kernels(backend: str) -> BlockKernels:
    """The module of a backend's block kernels, imported when it is first asked for."""
    if backend == "triton":
        from kullback.vocab import triton_kernels

        return triton_kernels
    if backend == "compile":
        from kullback.vocab import compiled

        return compiled
    from kullback.vocab import eager

    return eager


def backend_for(backend: str | None, device: torch.device) -> str:
    """The backend asked for; Triton on CUDA where it is installed, else eager.

    Raises:
        InputError: no backend has this name.
        MissingPackageError: Triton is asked for and not installed.
    """
    if backend is None:
        return "triton" if device.type == "cuda" and find_spec("triton") else "eager"
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} came, but there are {', '.join(BACKENDS)}")
    if backend == "triton" and find_spec("triton") is None:
        raise MissingPackageError("triton", "triton")
    return backend
