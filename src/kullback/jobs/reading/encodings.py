"""Text out of bytes: UTF-8, or what a mark at the beginning says."""

from __future__ import annotations

import codecs
import gzip
import stat
import zlib
from pathlib import Path

from kullback.errors import FileError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Longer marks first: that of UTF-32 begins with that of UTF-16."""

GZIP = b"\x1f\x8b"


def text_of_file(path: Path) -> str:
    """The text of a file, unpacked where it is gzip's, without the mark at its beginning.

    Raises:
        FileError: no such file, or not text.
    """
    return decoded(bytes_of(path), path)


def bytes_of(path: Path) -> bytes:
    """The bytes of a file or a pipe, unpacked where they are gzip's."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise FileError(f"{path} is no file: name a file of prompts or texts")
        raw = path.read_bytes()
    except FileError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{path} cannot be read ({reason}): check the path") from error
    if not raw.startswith(GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path} cannot be unpacked ({error}): copy it again") from error


def decoded(raw: bytes, path: Path) -> str:
    """Bytes as text, with a hint at what they may be where they are not UTF-8."""
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{path} is not text in UTF-8: the byte 0x{raw[error.start]:02x} in line {line} is none of it; if it is "
            f"Latin-1 or Windows text, convert it with: iconv -f WINDOWS-1252 -t UTF-8 {path}"
        ) from error
    if "\x00" in text:
        raise FileError(
            f"{path} holds null bytes: it is no text, or UTF-16 without a mark, which converts with: "
            f"iconv -f UTF-16LE -t UTF-8 {path}"
        )
    return text


def lines_of(text: str) -> list[str]:
    """Lines by their ends alone: U+2028 and its like are characters within a line, as JSON has them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
