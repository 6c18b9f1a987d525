"""The rows that a folder has gained since one last looked, whatever of it is half written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from kullback.errors import FileError, UnfinishedError
from kullback.rollouts import Rollout, read_rollouts
from kullback.rollouts.readers.containers.lines import Cursor
from kullback.rollouts.readers.folder import PARTIAL, files_of
from kullback.rollouts.table import BLOCK_ROWS


@dataclass
class Seen:
    """What is known of a file.

    Attributes:
        size, changed: when it was read last; changed is its time of modification.
        rows: how many of its rows were taken.
        cursor: where the next begins, in a file with a record a line.
        complaint: what was wrong when it was read last.
        patience: seconds without a change after which that is told.
        bad: its rows that were left out and named.
    """

    size: int = -1
    changed: float = 0.0
    rows: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    complaint: str | None = None
    patience: float = 0.0
    bad: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Arrival:
    """New rows of a file.

    Attributes:
        path: of the file.
        at: when the file was changed last, seconds since 1970.
        marked: whether a marker beside it says that it is whole.
        rollouts: the rows.
    """

    path: Path
    at: float
    marked: bool
    rollouts: list[Rollout]


@dataclass
class Follower:
    """Looks at a folder again and again.

    A file is read when it has changed. One that cannot be read is named, once, when it has not changed for `settle`
    seconds; one that ends in the middle is waited for twelve times as long.

    Attributes:
        folder: which.
        format, names: as for `kullback.read_rollouts`.
        settle: seconds without a change after which a file is taken to be whole.
        skip_bad: whether rows that cannot be read are left out, and named.
        seen: by path below the folder.
        complaints: sentences about files that stay unreadable, to be fetched by who tells.
    """

    folder: Path
    format: str | None = None
    names: Mapping[str, str] | None = None
    settle: float = 5.0
    skip_bad: bool = False
    seen: dict[str, Seen] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def look(self) -> Iterator[Arrival]:
        """New rows, file after file in natural order.

        Raises:
            FileError: the folder cannot be read.
        """
        for path in files_of(self.folder):
            if path.suffix in (*PARTIAL, ".part"):
                continue
            try:
                stat = path.stat()
            except OSError:
                continue  # gone since it was listed
            known = self.seen.setdefault(path.relative_to(self.folder).as_posix(), Seen())
            if (stat.st_size, stat.st_mtime) != (known.size, known.changed):
                known.size, known.changed = stat.st_size, stat.st_mtime
                if (arrival := self._read(path, known)) is not None:
                    yield arrival
            elif known.complaint is not None and time.time() - known.changed >= known.patience:
                self.complaints.append(known.complaint)
                known.complaint = None

    def _read(self, path: Path, known: Seen) -> Arrival | None:
        rows: list[Rollout] = []
        changed, marked = known.changed, False
        known.complaint, known.patience = None, self.settle
        try:
            table = read_rollouts(path, self.format, map=self.names, skip_bad=self.skip_bad)
            if table.marker is not None:
                marked = (path.parent / table.marker).exists()
                if not marked:
                    known.changed = -1.0  # a marker does not change the file: look again
                    return None
            # Lines one by one: those before one that is being written would go down with their block.
            size = BLOCK_ROWS if table.format == "kullback" else 1
            before = 0 if known.cursor.offset and table.resume(known.cursor) else known.rows
            if before == known.rows:
                known.cursor = Cursor()
                table.resume(known.cursor)
            rows.extend(islice(chain.from_iterable(table.blocks(size)), before, None))
            self.complaints += [bad for bad in table.bad if bad not in known.bad]
            known.bad.update(table.bad)
        except UnfinishedError as error:
            known.complaint, known.patience = str(error), 12 * self.settle
        except FileError as error:
            known.complaint = str(error)
        known.rows += len(rows)
        return Arrival(path, changed, marked, rows) if rows else None
