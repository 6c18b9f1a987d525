"""Whether a folder still holds the weights that it held: a digest that takes no longer for larger models."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kullback.errors import FileError

PLACES, BLOCK = 64, 1 << 16
"""Blocks that are read of a file, evenly spaced, and their bytes; training changes weights everywhere."""


def weights_digest(name: str) -> str | None:
    """Of the files of a model's folder, or of its file; None where the name is of neither, such as an id.

    A file of up to 4 MiB is read whole, of a larger one 64 blocks.

    Raises:
        FileError: a file cannot be read.
    """
    path = Path(name)
    if not path.exists():
        return None
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        try:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as opened:
                for place in range(PLACES):
                    opened.seek(
                        place * max(size - BLOCK, 0) // (PLACES - 1) if size > PLACES * BLOCK else place * BLOCK
                    )
                    digest.update(opened.read(BLOCK))
        except OSError as error:
            raise FileError(f"{file} cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()
