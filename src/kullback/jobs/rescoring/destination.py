"""The file that scored rows are written to."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kullback.errors import FileError, InputError
from kullback.rollouts.part import ENDING


def check_destination(output: Path, source: Path, *, shards: Path, overwrite: bool, resume: bool = False) -> None:
    """Refuse a file that could not be written, or that would be read and written at once, before any work is done.

    Raises:
        InputError: no Parquet file by its name, or what is read itself.
        FileError: it is there already, as a whole or a part, or its folder cannot be written to.
    """
    if output.suffix != ".parquet":
        raise InputError(
            f"--output {output} came, but a table of rollouts is Parquet: name a file that ends in .parquet"
        )
    if output.is_dir():
        raise FileError(f"{output} is a folder, and a file is to have its place: choose another --output")
    _check_apart(output, source)
    overwrite = overwrite or (resume and shards.is_dir())
    if shards.is_dir() and not overwrite:
        raise FileError(
            f"{shards} is of a run that did not come to its end: go on with --resume, choose another --output, or pass "
            "--overwrite"
        )
    part = output.with_name(output.name + ENDING)
    if not overwrite and output.exists():
        raise FileError(f"{output} is there already: choose another --output or pass --overwrite")
    if not overwrite and part.exists():
        raise FileError(
            f"{part} is there, of a run that was killed or is still at work: read it with kullback.read_rollouts and "
            "choose another --output, or pass --overwrite"
        )
    _check_writable(output)


def _check_apart(output: Path, source: Path) -> None:
    place, read = output.resolve(), source.resolve()
    if place in (read, read.with_name(read.name.removesuffix(ENDING))):
        raise InputError(f"--output {output} is the file that is read: name another one, nothing is written over it")
    if read.is_dir() and read in place.parents:
        raise InputError(
            f"--output {output} lies in the folder that is read, and would be taken for a part of it: name another"
        )


def _check_writable(output: Path) -> None:
    """A folder that is there may be read-only, and after an hour of scoring is too late to learn it."""
    probe = output.parent / f".kullback-probe-{os.getpid()}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise FileError(f"{output} cannot be written ({error.strerror or error}): choose another --output") from error
    finally:
        with suppress(OSError):
            probe.unlink()
