"""What `torch.save` wrote: opened by weights_only, or refused. Nothing in a file is ever executed."""

from __future__ import annotations

import shlex
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import FileError, MissingPackageError, UnfinishedError
from kullback.rollouts.readers.containers.found import Found, each
from kullback.rollouts.readers.containers.opening import MAX_DOCUMENT, opened

if TYPE_CHECKING:
    import torch

ZIP = b"PK\x03\x04"
"""What an archive begins with."""

MAX_UNPACKED = 16 * MAX_DOCUMENT
"""Bytes that an archive may unpack to."""


DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RuntimeError,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    OverflowError,
)
"""What reading a spoilt archive raises: a RuntimeError where a byte says that it is encrypted, or of no version."""


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
            if _holds_tensordict(path):  # which tells torch, once it is loaded, that its classes are safe
                with suppress(ImportError):
                    import_module("tensordict")
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
    load = "torch.load(F, weights_only=False)" if _is_of_torch(path) else "pickle.loads(pathlib.Path(F).read_bytes())"
    return (
        "if you trust whoever wrote it, convert it where its packages are installed with "
        f"`import pathlib, pickle, torch; F = {str(path)!r}; d = {load}; b = getattr(d, 'batch', d); "
        # What is no tensor names the prompts: verl's non_tensor_batch, SkyRL's metadata, RolloutSkip's keys.
        "c = {**getattr(d, 'non_tensor_batch', {}), **(getattr(d, 'metadata', 0) or {}), **dict(b.items()), "
        "**dict(b.get('tensordict', {}).items())}; c.pop('tensordict', 0)` and "
        "`torch.save({k: list(v.unbind()) if hasattr(v, 'unbind') else v if isinstance(v, (int, float, str)) else "
        "list(map(str, v)) for k, v in c.items() if getattr(v, 'ndim', 1) and "
        "(hasattr(v, '__len__') or isinstance(v, (int, float)))}, "
        f"{shlex.quote(goal)!r})`, and read {goal}"
    )


def _is_of_torch(path: Path) -> bool:
    """Whether `torch.save` wrote it: an archive, or a pickle that begins with torch's number."""
    with opened(path) as file:
        return file.read(16).startswith((b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"))


def _holds_tensordict(path: Path) -> bool:
    """Whether an archive names classes of tensordict, which verl's RolloutSkip keeps its batches in."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return any(b"tensordict" in archive.read(name) for name in names)
    except DAMAGED:
        return False


def check_archive(path: Path) -> None:
    """Hold that a zip archive, if it is one, unpacks to what can be held.

    Raises:
        FileError: it does not, or is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                if file.read(4) == ZIP:
                    raise UnfinishedError(
                        f"{path} is an archive without its end: it is still being written, or was cut off"
                    )
            return
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except FileError:
        raise
    except DAMAGED as error:
        raise FileError(f"{path} is damaged ({error}): write it again") from None
    if size > MAX_UNPACKED:
        raise FileError(f"{path} unpacks to {size >> 30} GiB, which is not held: write it in parts")


def _plain(value: Any, path: Path, depth: int) -> Any:
    if depth > 100:
        raise FileError(f"{path} cannot be read as rollouts: it is nested too deeply")
    if isinstance(value, dict):
        return {str(name): _plain(part, path, depth + 1) for name, part in value.items()}
    if type(value).__module__.startswith("tensordict."):
        return _plain(dict(value.items()), path, depth + 1)
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
