"""Where a model is put and in which dtype: what was asked for, as torch calls it, or a sentence."""

from __future__ import annotations

import torch

from kullback.errors import ModelError, shown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
"""Dtypes in which a whole model can run, by name."""


SPLIT = "split"
"""The layers of a model on all devices of the machine, as accelerate shares them out."""


def device_named(device: object) -> str:
    """A device that is there and works; "auto" takes cuda, then mps, then the CPU, and "split" all of them.

    Raises:
        ModelError: torch does not know it, or this machine or this build of torch has none.
    """
    name = str(device)
    if name == SPLIT:
        return name
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    advice = "name auto, cpu, cuda, cuda:1, mps or split"
    try:
        found = torch.device(name)
    except (RuntimeError, ValueError):
        raise ModelError(f"device={shown(name)} came, which torch does not know: {advice}") from None
    if found.type == "cpu" and found.index:
        raise ModelError(f"device={shown(name)} came, but a machine has one CPU as a device: {advice}")
    if found.type == "meta":
        raise ModelError(f"device={shown(name)} came, which holds no numbers: {advice}")
    try:
        torch.empty(1, device=found)
    except Exception:  # each backend has an error of its own for this
        raise ModelError(
            f"device={shown(name)} came, but this machine with torch {torch.__version__} has none that works: {advice}"
        ) from None
    return name


def dtype_named(dtype: object, device: str) -> torch.dtype | str:
    """The dtype to load in; "auto" is float32 on the CPU, and elsewhere "auto": what the checkpoint has.

    Raises:
        ModelError: no dtype in which a model can run.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        none = device == SPLIT and not torch.cuda.is_available()
        return torch.float32 if device == "cpu" or none else "auto"
    if name not in DTYPES:
        raise ModelError(f"dtype={shown(name)} came, but a dtype is float32, bfloat16, float16, float64 or auto")
    return DTYPES[name]
