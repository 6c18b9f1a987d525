"""What `torch.save` wrote: opened by weights_only, or refused. Nothing in a file is ever executed."""

from __future__ import annotations

import shlex
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import FileError, MissingPackageError, UnfinishedError
from kullback.rollouts.readers.containers.found import Found, each
from kullback.rollouts.readers.containers.opening import MAX_DOCUMENT

if TYPE_CHECKING:
    import torch

MAX_UNPACKED = 16 * MAX_DOCUMENT
"""Bytes that an archive may unpack to."""


def records(path: Path) -> Iterator[Found]:
    """What was saved, or the entries of the list that it is; tensors are NumPy arrays, bfloat16 as float32.

    Raises:
        FileError: the file cannot be read, or is a pickle that is not opened, with the two lines that convert it.
        MissingPackageError: torch is not installed.
    """
    yield from each(_plain(_loaded(path), path, 0), "entry")


def _loaded(path: Path) -> object:
    try:
        import torch
    except ImportError:
        raise MissingPackageError("torch", "torch") from None
    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(f"{path} cannot be read as rollouts: there is no such file, check the path") from None
    except EOFError:
        raise UnfinishedError(f"{path} cannot be read as rollouts: it was not written to its end") from None
    except Exception as error:  # whatever a pickle's bytes make of the unpickler
        if isinstance(error, OSError):
            raise FileError(f"{path} cannot be read as rollouts: {error.strerror or error}, check the path") from None
        raise FileError(f"{path} is a pickle, which could run code when it is opened: {conversion(path)}") from None


def conversion(path: Path) -> str:
    """How to make of a pickle what is opened here, in two lines."""
    goal = path.with_name(path.name + ".safe.pt").name
    load = "pickle.load(open(F, 'rb'))" if path.suffix in (".pkl", ".pickle") else "torch.load(F, weights_only=False)"
    return (
        "if you trust whoever wrote it, convert it where its packages are installed with "
        f"`import pickle, torch; F = {str(path)!r}; d = {load}; d = getattr(d, 'batch', d)` and "
        f"`torch.save({{k: list(v) if hasattr(v, 'unbind') else v for k, v in d.items()}}, {shlex.quote(goal)!r})`, "
        f"and read {goal}"
    )


def check_archive(path: Path) -> None:
    """Hold that a zip archive, if it is one, unpacks to what can be held.

    Raises:
        FileError: it does not, or is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): write it again") from None
    if size > MAX_UNPACKED:
        raise FileError(f"{path} unpacks to {size >> 30} GiB, which is not held: write it in parts")


def _plain(value: Any, path: Path, depth: int) -> Any:
    if depth > 100:
        raise FileError(f"{path} cannot be read as rollouts: it is nested too deeply")
    if isinstance(value, dict):
        return {str(name): _plain(part, path, depth + 1) for name, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part, path, depth + 1) for part in value]
    return _array(value, path) if hasattr(value, "untyped_storage") else value


def _array(tensor: torch.Tensor, path: Path) -> Any:
    import torch

    try:
        if tensor.is_nested:
            return [_array(part, path) for part in tensor.unbind()]
        if tensor.numel() > 4096 and tensor.numel() * tensor.element_size() > 2 * tensor.untyped_storage().nbytes():
            raise FileError(f"{path} holds a tensor of shape {tuple(tensor.shape)} that repeats a few numbers")
        tensor = tensor.detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor.to_dense()).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise FileError(f"{path} holds a tensor that cannot be read ({str(error).splitlines()[0]})") from None
