"""The folder a job writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kullback.documents import Record, json_of
from kullback.errors import FileError
from kullback.paths import path_of

ROLLOUTS, ESTIMATE = "rollouts.parquet", "estimate.json"
SHARDS = "shards"
"""The folder of what workers have finished, until the job ends; `resume` goes on from it."""

PART = f"{ROLLOUTS}.part"
"""What is finished of the rollouts until the job ends; `kullback.read_rollouts` reads it."""


@contextmanager
def results_in(
    output: str | Path | None,
    *,
    overwrite: bool,
    names: Sequence[str] = (ROLLOUTS, ESTIMATE),
    resume: bool = False,
) -> Iterator[Path | None]:
    """The folder, made, tried and held against other runs before any work is done; None where none was asked for.

    With `resume` what is there of a run that has shards is no obstacle.

    Raises:
        FileError: it cannot be written to, holds results already, or another run is writing to it.
    """
    if output is None:
        yield None
        return
    folder = path_of(output, "a folder to write to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder that is there may be read-only, and after an hour of sampling is too late to learn it.
        probe = folder / f".kullback-probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written to ({error.strerror or error}): choose another --output"
        ) from error
    with _held(folder):
        _check_free(folder, names, overwrite=overwrite or (resume and (folder / SHARDS).is_dir()))
        _check_shards(folder, names, overwrite=overwrite, resume=resume)
        yield folder


def check_output(
    output: str | Path | None,
    *,
    overwrite: bool,
    names: Sequence[str] = (ROLLOUTS, ESTIMATE),
    resume: bool = False,
) -> None:
    """Refuse a folder that could not be written to, before any work is done; raises as `results_in`."""
    with results_in(output, overwrite=overwrite, names=names, resume=resume):
        pass


def _check_shards(folder: Path, names: Sequence[str], *, overwrite: bool, resume: bool) -> None:
    shards = folder / SHARDS
    if ROLLOUTS not in names or resume or overwrite or not shards.is_dir():
        return
    raise FileError(
        f"{folder} holds the {SHARDS} of a run that did not come to its end: go on with --resume, choose another "
        "--output, or pass --overwrite"
    )


def _check_free(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    for name in names:
        if (folder / name).is_dir():
            raise FileError(f"{folder / name} is a folder, and a file is to have its place: choose another --output")
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise FileError(f"{folder} already holds {' and '.join(there)}: choose another --output or pass --overwrite")
    if ROLLOUTS in names and (folder / PART).exists() and not overwrite:
        raise FileError(
            f"{folder} holds {PART} of a run that was killed: read it with kullback.read_rollouts and choose another "
            "--output, or pass --overwrite"
        )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder, as long as this process lives at the most."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(
                f"another run is writing to {folder}: wait for its end or choose another --output"
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        with suppress(OSError):
            os.close(place)


def write_json(path: Path, record: Record) -> None:
    """Write a record as JSON; the file has its name only once it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json_of(record, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}): free some room, or keep what is shown"
        ) from error
