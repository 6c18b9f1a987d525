"""A dump: files that one run wrote, opened, and read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path

from kullback.errors import InputError
from kullback.jobs.files.columns import LISTS, READ, SHOWN, Block
from kullback.jobs.files.parts import by_sampler
from kullback.jobs.files.places import SAID, Found, Place
from kullback.jobs.files.questions import COLUMN, Side
from kullback.jobs.files.sampled import Kept
from kullback.jobs.files.samples import Samples
from kullback.jobs.files.sources import Source
from kullback.rollouts import Rollout, Rollouts, read_rollouts
from kullback.rollouts.readers.containers.opening import bytes_read

Paths = str | Path | Sequence[str | Path]

OURS = "kullback"
"""The format whose rows can be read again by their number, and counted without reading them."""

NAMED = 5
"""Files that a sentence names."""


@dataclass(frozen=True)
class Dump:
    """Files that are read as one table.

    Attributes:
        files: in the order in which they are read.
        left_out: files of a folder that no format knows.
    """

    files: tuple[Rollouts, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def opened(
        cls, paths: Paths, format: str | None = None, *, names: Mapping[str, str] | None = None, skip_bad: bool = False
    ) -> Dump:
        """The files of paths, those of a folder each on its own.

        Raises:
            InputError: no path.
            FileError: a file that cannot be read as rollouts.
        """
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        if not listed:
            raise InputError("no file came, but at least one is needed: kullback estimate FILE")
        opened = [read_rollouts(path, format, map=names, skip_bad=skip_bad) for path in listed]
        files = tuple(part for one in opened for part in one.parts)
        return cls(files, tuple(name for one in opened for name in one.left_out))

    @cached_property
    def rows(self) -> int:
        """How many there are; 0 where that cannot be known without reading them all."""
        return sum(len(file) for file in self.files) if all(file.counted for file in self.files) else 0

    @cached_property
    def _bytes(self) -> Mapping[str, tuple[int, int]]:
        """The bytes of all files before each, and its own."""
        sizes = [file.path.stat().st_size if file.path.is_file() else 0 for file in self.files]
        before = accumulate([0, *sizes[:-1]])
        return {str(file.path): both for file, both in zip(self.files, zip(before, sizes, strict=True), strict=True)}

    def share(self, block: Block) -> float | None:
        """How much of the files' bytes was read when a block came; None where the rows say it, or the bytes do not."""
        total = sum(size for _, size in self._bytes.values())
        if self.rows or not total:
            return None
        before, size = self._bytes[block.file]
        # A file that gave a block and is not open any more was read to its end.
        return (before + min(size, bytes_read(Path(block.file)) or size)) / total

    @property
    def bad(self) -> tuple[str, ...]:
        """Records that could not be read in the last pass, with file and line."""
        return tuple(bad for file in self.files for bad in file.bad)

    def blocks(self, *, told: bool = False) -> Iterator[Block]:
        """The rows, a few at a time, of one sampler each; with `told`, each with its tokens and its text."""
        for file in self.files:
            # What a foreign record says is at hand when it is read; ours is looked up for the few rows that are shown.
            names = (*READ, *(SHOWN if told else ())) if file.format == OURS else (*READ, *SHOWN, *LISTS)
            for columns in file.batches(names):
                yield from by_sampler(Block(str(file.path), columns))

    @property
    def name(self) -> str:
        """The first file's, and how many more there are."""
        more = len(self.files) - 1
        return f"{self.files[0].path}{f' and {more} more' if more else ''}"

    def rollouts(self) -> Iterator[Rollout]:
        """The rows, one by one."""
        return chain.from_iterable(self.files)

    def sides(self) -> frozenset[Side]:
        """The laws that the first row has."""
        row = next(self.rollouts())
        return frozenset(side for side, column in COLUMN.items() if getattr(row, column) is not None)

    def sources(self, samples: Mapping[str, Samples]) -> tuple[Source, ...]:
        """What the files say about themselves, or show, of the columns that rows which count have."""
        return tuple(
            Source.of(str(file.path), file.format, file.metadata, samples.get(str(file.path), Samples()))
            for file in self.files
        )

    def named(self, rows: Sequence[Kept]) -> tuple[Kept, ...]:
        """The rows with their token ids, read again where they were not at hand."""
        files = {str(file.path): file for file in self.files if file.format == OURS}
        return tuple(
            row if row.tokens is not None or row.file not in files else row.told(files[row.file].values(row.row, SAID))
            for row in rows
        )

    def found(self, place: Place) -> Found:
        """What a row says, read again where that was not kept."""
        if place.said is not None:
            return place.said
        file = next(file for file in self.files if str(file.path) == place.file)
        return Found.of(place, file.values(place.row, SAID))
