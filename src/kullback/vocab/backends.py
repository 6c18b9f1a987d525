"""Who computes a block: eager torch, torch.compile, or Triton."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from kullback.errors import InputError, MissingPackageError

BACKENDS = {"eager": "eager", "compile": "compiled", "triton": "triton_kernels"}
"""What ``backend=`` takes, and the module that has the kernels."""


def kernels(backend: str) -> ModuleType:
    """The module of a backend's block kernels."""
    return import_module(f"kullback.vocab.{BACKENDS[backend]}")


def choose(backend: str | None, device: torch.device) -> str:
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
