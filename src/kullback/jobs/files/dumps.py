"""A dump: files that one run wrote, opened, and read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kullback.errors import InputError
from kullback.jobs.files.columns import READ, Block
from kullback.jobs.files.parts import by_sampler
from kullback.jobs.files.places import Found, Place
from kullback.jobs.files.sources import Source
from kullback.rollouts import Rollouts, read_rollouts
from kullback.rollouts.columns import split

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Dump:
    """Files that are read as one table.

    Attributes:
        files: in the order in which they are read.
    """

    files: tuple[Rollouts, ...]

    @classmethod
    def opened(cls, paths: Paths, format: str | None) -> Dump:
        """The files of paths.

        Raises:
            InputError: no path.
            FileError: a file that cannot be read as rollouts.
        """
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        if not listed:
            raise InputError("no file came, but at least one is needed: kullback estimate FILE")
        return cls(tuple(read_rollouts(path, format) for path in listed))

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(len(file) for file in self.files)

    @property
    def sources(self) -> tuple[Source, ...]:
        """What the files say about themselves."""
        return tuple(
            Source(str(file.path), file.path.suffix.removeprefix("."), file.law, file.quantum) for file in self.files
        )

    def blocks(self) -> Iterator[Block]:
        """The rows, a few at a time, of one sampler each."""
        for file in self.files:
            first = 0
            for rows in file.blocks():
                for columns in split(rows, first, READ):
                    yield from by_sampler(Block(str(file.path), columns))
                first += len(rows)

    def found(self, place: Place) -> Found | None:
        """A row, read again."""
        file = next((file for file in self.files if str(file.path) == place.file), None)
        return None if file is None else Found.of(place, file[place.row])
