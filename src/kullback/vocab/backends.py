"""Who computes a block: eager torch, torch.compile, or Triton; and which of them where nobody says."""

from __future__ import annotations

import os
import shutil
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

import kullback
from kullback.errors import InputError, MissingPackageError, shown
from kullback.vocab.kernels import BlockKernels

BACKENDS = ("auto", "eager", "compile", "triton")
"""What ``backend=`` takes."""

# Logits of one call from which it is compiled at once: such a call is one of a long job's, and eager takes half a
# second for it and its gradient where compiled code takes an eighth.
LARGE_CALL = 1 << 26

# Nanoseconds a logit that compiled code saves, forward and backward, and seconds that it takes to make it: in a process
# that finds nothing in torch's cache, and in one that finds it there.
SAVED_NANOSECONDS = 6.0
COMPILE_SECONDS, CACHED_SECONDS = 40.0, 6.0


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


def backend_for(backend: str | None, device: torch.device, logits: int) -> str:
    """The backend asked for, or the one that is worth its while for so many logits.

    Raises:
        InputError: no backend has this name.
        MissingPackageError: Triton is asked for and not installed.
    """
    if backend is None or backend == "auto":
        return _worth_while(device, logits)
    if backend not in BACKENDS:
        raise InputError(f"backend {shown(backend)} came, but there are {', '.join(BACKENDS)}")
    if backend == "triton" and find_spec("triton") is None:
        raise MissingPackageError("triton", "triton")
    return backend


def _worth_while(device: torch.device, logits: int) -> str:
    if device.type == "cuda":
        return "triton" if find_spec("triton") else "eager"
    if device.type != "cpu" or torch.compiler.is_compiling():
        return "eager"
    return "compile" if TALLY.pays(logits) and compiler_works() else "eager"


class Tally:
    """What compiled code would have saved so far.

    It is made once that is what it costs: whatever comes after, no more than twice the best is spent.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def pays(self, logits: int) -> bool:
        """Whether compiled code is worth its making, with a call of so many logits more."""
        self.seconds += SAVED_NANOSECONDS * 1e-9 * logits
        if logits >= LARGE_CALL or self.seconds < CACHED_SECONDS:  # the price is asked for late: torch's compiler loads
            return logits >= LARGE_CALL
        return self.seconds >= _price()


TALLY = Tally()


@cache
def _price() -> float:
    """Seconds that torch.compile takes here for what a program calls."""
    marker = _marker()
    return CACHED_SECONDS if marker is not None and marker.exists() else COMPILE_SECONDS


def _marker() -> Path | None:
    """A file beside torch's cache that says that it holds our code; None where there is no cache to be."""
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir
    except ImportError:
        return None
    return Path(cache_dir()) / f"kullback-{kullback.__version__}-torch-{torch.__version__}"


@cache
def compiler_works() -> bool:
    """Whether torch.compile makes code here; where it does not, one sentence says so once."""
    compiler = os.environ.get("CXX") or next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    reason = "no C++ compiler is here (g++ or clang++)" if compiler is None else _failure()
    if reason is None:
        return True
    warnings.warn(
        f"kullback's full-vocabulary functions run three times as fast compiled, but {reason}; backend='eager' "
        "says that this is known",
        RuntimeWarning,
        stacklevel=5,
    )
    return False


def _failure() -> str | None:
    """Why torch.compile makes no code of one addition, if it does not."""
    try:
        torch.compile(_plus_one, dynamic=False, fullgraph=True)(torch.zeros(2, 64))
    except Exception as error:
        return f"torch.compile fails: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    try:
        marker = _marker()
        if marker is not None:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
    except OSError:
        pass
    return None


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1
