"""Who computes a block: eager torch, torch.compile, or Triton."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from kullback.errors import InputError, MissingPackageError
from kullback.vocab.kernels import BlockKernels

BACKENDS = ("eager", "compile", "triton")
"""What ``backend=`` takes."""


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
