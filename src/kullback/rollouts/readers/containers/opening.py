"""Files as they are opened: compressed ones too, within bounds, with what goes wrong said in a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from kullback.errors import FileError, UnfinishedError
from kullback.rollouts.part import pyarrow

MAX_LINE = 1 << 28
"""Bytes of a line: 256 MiB hold the texts and numbers of a million tokens."""

MAX_DOCUMENT = 1 << 30
"""Bytes of a file that is one document and so is read whole, decompressed."""

GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"

NO_END = "{} is compressed and has no end: it is still being written, or was cut off; write it again"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed where it is compressed, whatever its ending.

    Raises:
        FileError: it cannot be read; `UnfinishedError` where what is compressed has no end.
        MissingPackageError: it is zst, which needs pyarrow before Python 3.14.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            with _decompressed(cast("IO[bytes]", file), head) as plain, _listed(path, cast("IO[bytes]", file)):
                yield plain
    except EOFError as error:
        raise UnfinishedError(NO_END.format(path)) from error
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise FileError(f"{path} is damaged, it cannot be decompressed ({error}): write it again") from error
    except FileNotFoundError as error:
        raise FileError(f"{path} cannot be read as rollouts: there is no such file, check the path") from error
    except FileError:
        raise
    except OSError as error:
        if "Truncated compressed stream" in str(error):  # Arrow's words
            raise UnfinishedError(NO_END.format(path)) from error
        raise FileError(f"{path} cannot be read as rollouts: {error.strerror or error}, check the path") from error


_OPEN: dict[Path, IO[bytes]] = {}


@contextmanager
def _listed(path: Path, file: IO[bytes]) -> Iterator[None]:
    _OPEN[path] = file
    try:
        yield
    finally:
        _OPEN.pop(path, None)


def bytes_read(path: Path) -> int:
    """How far a file that is being read has been read, in its own bytes, compressed or not; 0 where none is open."""
    try:
        return _OPEN[path].tell()
    except (KeyError, ValueError, OSError):
        return 0


def _decompressed(file: IO[bytes], head: bytes) -> IO[bytes]:
    if head.startswith(GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if head.startswith(BZIP2):
        return cast("IO[bytes]", bz2.BZ2File(file))
    if head.startswith(XZ):
        return cast("IO[bytes]", lzma.LZMAFile(file))
    return _zstd(file) if head.startswith(ZSTD) else file


def _zstd(file: IO[bytes]) -> IO[bytes]:
    """By Python's own module where there is one (3.14), else by Arrow's, which misses no end of a stream either."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]

        return cast("IO[bytes]", zstd.ZstdFile(file))
    except ImportError:
        stream: Any = pyarrow().CompressedInputStream(file, "zstd")
        return cast("IO[bytes]", io.BufferedReader(stream))


def whole(path: Path) -> bytes:
    """A file that is one document.

    Raises:
        FileError: it cannot be read, or is too long.
    """
    with opened(path) as file:
        text = file.read(MAX_DOCUMENT + 1)
    if len(text) > MAX_DOCUMENT:
        raise FileError(
            f"{path} is one document of more than {MAX_DOCUMENT >> 20} MiB, which would be held whole: "
            "write a record a line (jsonl), or Parquet"
        )
    return text
