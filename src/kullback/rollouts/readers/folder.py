"""A folder of dumps: the files of one format, in the order of their steps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path

from kullback.errors import FileError, UnfinishedError
from kullback.rollouts.columns import Columns
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.part import ENDING
from kullback.rollouts.readers.foreign import step_of
from kullback.rollouts.readers.format import Format
from kullback.rollouts.record import Rollout
from kullback.rollouts.schema import COLUMNS
from kullback.rollouts.table import Source

PARTIAL = (".tmp", ".whole", ".incomplete", ".lock", ".crc")
"""Endings of what is being written, or lies beside what is."""

MANY = 200_000
"""Files that are looked at: a folder of more is not one run's dumps."""


class FolderSource:
    """Files, one after another, as one table.

    Attributes:
        left_out: files that no format knows, by name.
    """

    def __init__(self, path: Path, parts: Sequence[Source], left_out: Sequence[str]) -> None:
        self.path, self.parts, self.left_out = path, tuple(parts), tuple(left_out)

    @property
    def bad(self) -> list[str]:
        """What was left out of the last pass."""
        return [bad for part in self.parts for bad in getattr(part, "bad", ())]

    @property
    def metadata(self) -> Metadata:
        """What the first file says, where all say the same of laws and models; the hash is that of all."""
        said = {replace(part.metadata, token_hash=None).to_json() for part in self.parts}
        return Metadata.from_json(said.pop()) if len(said) == 1 else Metadata()

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def columns(self) -> tuple[str, ...]:
        """The columns that hold something in some file."""
        held = {name for part in self.parts for name in part.columns()}
        return tuple(name for name in COLUMNS if name in held)

    def blocks(self, rows: int, start: int = 0) -> Iterator[list[Rollout]]:
        """The rows from number `start` on, at most `rows` at a time; a block ends with its file."""
        if not start:
            yield from chain.from_iterable(part.blocks(rows) for part in self.parts)
            return
        left = islice(chain.from_iterable(chain.from_iterable(part.blocks(rows) for part in self.parts)), start, None)
        while block := list(islice(left, rows)):
            yield block

    def batches(self, names: Sequence[str]) -> Iterator[Columns]:
        """The rows by column, file after file."""
        first = 0
        for part in self.parts:
            rows = 0
            for columns in part.batches(names):
                yield replace(columns, first=first + columns.first)
                rows += len(columns)
            first += rows

    @property
    def format(self) -> Format | None:
        """That of all files."""
        return self.parts[0].format


def files_of(folder: Path) -> list[Path]:
    """The files in a folder and those below it that hold something, in natural order; hidden ones are passed over.

    Raises:
        FileError: the folder cannot be read, or holds too many files.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith((".", "_SUCCESS"))]
        if len(found) > MANY:
            raise FileError(f"{folder} holds more than {MANY:,} files: name the folder of one run's dumps")
    return sorted((path for path in found if path.is_file() and path.stat().st_size), key=natural)


def _refuse(error: OSError) -> None:
    raise FileError(f"{error.filename} cannot be read as rollouts: {error.strerror}, check the path") from error


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A key by which step2 comes before step10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def read_folder(folder: Path, opened: Callable[[Path], Source | None]) -> FolderSource:
    """The files of one format in a folder, as one table.

    Args:
        folder: where they are.
        opened: a file as a source, or None for one that no format knows.

    Raises:
        FileError: no file that a format knows, files of several formats, or one that cannot be read; `UnfinishedError`
            where the marker of none is there yet.
    """
    paths = [path for path in files_of(folder) if not _is_being_written(path)]
    sources = {path: opened(path) for path in paths}
    aside = {path for path in paths if any(_is_companion(path, source) for source in sources.values())}
    unknown = [path.relative_to(folder).as_posix() for path in paths if sources[path] is None and path not in aside]
    found = [source for path, source in sources.items() if source is not None and path not in aside]
    _check_one_format(folder, found, unknown)
    whole = [source for source in found if _is_whole(source)]
    if not whole:
        marker = found[0].format and found[0].format.marker
        raise UnfinishedError(f"{folder} has no {marker} beside a file yet, by which its writer says that it is whole")
    return FolderSource(folder, sorted(whole, key=_order), unknown)


def _is_being_written(path: Path) -> bool:
    """By its name; our own part counts where the whole is not there."""
    if path.suffix == ENDING:
        return path.with_suffix("").exists()
    return path.suffix in PARTIAL


def _is_companion(path: Path, source: Source | None) -> bool:
    one = None if source is None else source.format
    return one is not None and any(fnmatch(path.name, pattern) for pattern in one.companions)


def _is_whole(source: Source) -> bool:
    """Whether the marker of its format is beside it, if there is one."""
    one = source.format
    return one is None or one.marker is None or (source.path.parent / one.marker).exists()


def _order(source: Source) -> tuple[bool, int]:
    """By the step that a name tells; the order of names stays where none does."""
    one = source.format
    step = None if one is None else step_of(source.path, one)
    return step is None, step or 0


def _check_one_format(folder: Path, found: Sequence[Source], unknown: Sequence[str]) -> None:
    first: dict[str, Path] = {}
    for source in found:
        first.setdefault(source.format.name if source.format else "kullback", source.path.relative_to(folder))
    if not first:
        held = f"holds {', '.join(unknown[:5])}, in no format that is known" if unknown else "holds no file of records"
        raise FileError(f"{folder} cannot be read as rollouts: it {held}; check the path, or name the format")
    if len(first) > 1:
        listed = ", ".join(f"{path} ({name})" for name, path in first.items())
        raise FileError(
            f"{folder} holds files of several formats, {listed}: name the files of one, or one with format= (--format)"
        )
