"""A file in somebody else's format: its records, one after another, as rollouts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from kullback.errors import FileError, InputError, UnfinishedError, shown
from kullback.rollouts.columns import Columns, split
from kullback.rollouts.metadata import Metadata, agreed
from kullback.rollouts.placing import placed
from kullback.rollouts.readers.containers import RECORDS, Broken, Found, lines
from kullback.rollouts.readers.containers.lines import Cursor
from kullback.rollouts.readers.format import Container, Format
from kullback.rollouts.readers.recognition import first_record, seen
from kullback.rollouts.record import Rollout
from kullback.rollouts.schema import COLUMNS, holds

ROWS = 1024
"""Brought together by column."""

LONGEST = 600
"""Characters of a sentence on what is wrong with a record."""

SHAPELESS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What a record of a shape that its format did not think of makes of it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read.

    Attributes:
        names: what the file calls our columns, by our names; dots go into an object ("info.step").
        skip_bad: whether to leave out records that cannot be read, counting them, where they would end the reading.
        texts: whether texts without log-probs are read too, as rollouts without a token; see `Format.texts`.
    """

    names: Mapping[str, str] | None = None
    skip_bad: bool = False
    texts: bool = False


class FormatSource:
    """A file whose records a format understands.

    Attributes:
        bad: what was left out of the last pass and why, with path and line.
        cursor: where the next pass begins, and moved on by it; only of records that have a line each.

    Raises:
        FileError: no record in it can be read, or its format has no log-probs.
    """

    def __init__(self, path: Path, format: Format, container: Container, reading: Reading) -> None:
        self.path, self.format, self.bad, self._said = path, format, [], None
        self._container, self._reading = container, reading
        if format.advice is not None:
            raise FileError(
                f"{path} is {format.name}, written by {format.written_by}, without log-probs: {format.advice}"
            )
        self._step = step_of(path, format)

    cursor: Cursor | None = None
    bad: list[str]
    _said: Metadata | None

    @property
    def metadata(self) -> Metadata:
        """What the records say that were read so far; before any was, what the first one does."""
        return self._first_metadata if self._said is None else self._said

    @cached_property
    def _first_metadata(self) -> Metadata:
        record = self._named(first_record(self.path, self._container))
        try:
            return Metadata() if isinstance(record, Broken) else self.format.metadata(record)
        except SHAPELESS as error:
            raise FileError(f"{self.path}, first record: {self._misshapen(error)}") from error

    def __len__(self) -> int:
        return self._survey[0]

    def columns(self) -> tuple[str, ...]:
        """The columns that hold something; the whole file is read to tell."""
        return self._survey[1]

    @cached_property
    def _survey(self) -> tuple[int, tuple[str, ...]]:
        count, held = 0, set[str]()
        for rollout in self._rollouts():
            count += 1
            held |= {name for name in COLUMNS if name not in held and holds(rollout, name)}
        return count, tuple(name for name in COLUMNS if name in held)

    def blocks(self, rows: int, start: int = 0) -> Iterator[list[Rollout]]:
        """The rows from number `start` on, at most `rows` at a time."""
        left = islice(self._rollouts(), start, None)
        while block := list(islice(left, rows)):
            yield block

    def batches(self, names: Sequence[str]) -> Iterator[Columns]:
        """The rows by column."""
        first = 0
        for block in self.blocks(ROWS):
            yield from split(block, first, names)
            first += len(block)

    def _rollouts(self) -> Iterator[Rollout]:
        self.bad = []
        records, some = self._records(), self.cursor is not None
        for place, record in records:
            found = self._of(record)
            if isinstance(found, Broken):
                found = self._rest_of(place, record, found, records)
            else:
                self._hear(record)
            for rollout in found:
                some = True
                yield rollout
        if not some:
            bad = f"none of its {len(self.bad)} records can be read, the first: {self.bad[0]}" if self.bad else ""
            raise FileError(f"{self.path} holds no rollout: {bad or 'no record has a sequence'}")

    def _records(self) -> Iterator[Found]:
        return RECORDS[self._container](self.path) if self.cursor is None else lines.records(self.path, self.cursor)

    def resume(self, cursor: Cursor) -> bool:
        """Begin where a cursor stands from now on; False where the file cannot be read so, or was written anew."""
        if self._container != "jsonl" or not cursor.stands(self.path):
            return False
        self.cursor = cursor
        return True

    def _of(self, record: Mapping[str, Any] | Broken) -> Iterable[Rollout] | Broken:
        """The rollouts of a record, or what is wrong with it."""
        record = record if isinstance(record, Broken) else self._named(record)
        if isinstance(record, Broken):
            return record
        try:
            found = self.format.rollouts(record)
            # All of a record or nothing; what opens its own file has one that is the whole, and streams.
            if self._container == "binary":
                return self._streamed(found)
            return [placed(rollout, self._step) for rollout in found]
        except InputError as error:
            return Broken(_cut(str(error)))
        except SHAPELESS as error:
            return Broken(self._misshapen(error))

    def _hear(self, record: Mapping[str, Any] | Broken) -> None:
        """Keep what a record says about itself, as far as those before it said the same."""
        named = record if isinstance(record, Broken) else self._named(record)
        try:
            said = Metadata() if isinstance(named, Broken) else self.format.metadata(named)
        except SHAPELESS:
            said = Metadata()
        if said != self._said:
            self._said = said if self._said is None else agreed(self._said, said)

    def _rest_of(
        self, place: str, record: Mapping[str, Any] | Broken, whole: Broken, rest: Iterator[Found]
    ) -> Iterator[Rollout]:
        """Of a record that cannot be read: the sequences in it that can, where bad ones are to be left out."""
        parts = [] if isinstance(record, Broken) or not self._reading.skip_bad else self._parts(record)
        found = [(name, self._of(part)) for name, part in parts]
        if not any(not isinstance(one, Broken) for _, one in found):
            self._leave_out(place, whole, rest)
            return
        self._hear(record)
        for name, one in found:
            if isinstance(one, Broken):
                self._leave_out(", ".join(filter(None, (place, name))), one, rest)
            else:
                yield from one

    def _parts(self, record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        try:
            return [] if self.format.alone is None else list(self.format.alone(record))
        except SHAPELESS:
            return []

    def _streamed(self, found: Iterable[Rollout]) -> Iterator[Rollout]:
        try:
            for rollout in found:
                yield placed(rollout, self._step)
        except InputError as error:
            raise FileError(f"{self.path}: {_cut(str(error))}") from error
        except SHAPELESS as error:
            raise FileError(f"{self.path}: {self._misshapen(error)}") from error

    def _misshapen(self, error: Exception) -> str:
        if isinstance(error, InputError):
            return _cut(str(error))
        said = _cut(" ".join(str(error).split()), 120)
        return f"it has not the shape of {self.format.name} ({type(error).__name__}: {said})"

    def _named(self, record: Mapping[str, Any]) -> Mapping[str, Any] | Broken:
        """A record with our names beside its own."""
        found = dict(record)
        for ours, theirs in (self._reading.names or {}).items():
            value: Any = record if theirs not in record else {theirs: record[theirs]}
            for part in theirs.split(".") if theirs not in record else (theirs,):
                if not isinstance(value, Mapping) or part not in value:
                    return Broken(f"there is no {shown(theirs)}, which is to be {ours}: it has {seen(record)}")
                value = value[part]
            found[ours] = value
        return found if self._reading.names else record

    def _leave_out(self, place: str, broken: Broken, rest: Iterator[Found]) -> None:
        """Note a bad record, or refuse the file for it."""
        where = f"{self.path}, {place}" if place else str(self.path)
        if self._reading.skip_bad:
            self.bad.append(f"{where}: {broken.reason}")
            return
        others = sum(isinstance(self._of(record), Broken) for _, record in rest) if place else 0
        more = f" ({others} more cannot be read)" if others else ""
        advice = "; skip_bad=True (--skip-bad) leaves such records out" if place else ""
        raise (UnfinishedError if broken.unfinished else FileError)(f"{where}: {broken.reason}{more}{advice}")


def _cut(sentence: str, longest: int = LONGEST) -> str:
    """A sentence without the middle of it, where a value that it repeats has thousands of digits."""
    half = longest // 2
    return sentence if len(sentence) <= longest else f"{sentence[:half]}…{sentence[-half:]}"


def step_of(path: Path, format: Format) -> int | None:
    """The training step that a file's path names, as its format writes it; the last that is named."""
    for pattern in format.steps:
        if found := re.findall(pattern, path.as_posix()):
            return int(found[-1])
    return None
