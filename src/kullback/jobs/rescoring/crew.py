"""Rows scored by workers, a window at a time: each is kept once it is finished, and they come back in order."""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kullback.documents import Record
from kullback.errors import FileError, ModelError
from kullback.jobs.engines.crew import Answer, one_thread, told
from kullback.jobs.engines.pool import Engine, Pool
from kullback.jobs.engines.run import PATIENCE, pool_of
from kullback.jobs.engines.schedule import LOSSES
from kullback.jobs.engines.shards import Shards, lists, rows_in
from kullback.jobs.engines.weights import weights_digest
from kullback.jobs.rescoring.entries import Entry, Reading
from kullback.jobs.rescoring.judges import Judges
from kullback.models.memory import MOST_ROWS
from kullback.models.outside import Outside
from kullback.models.protocols import Scorer
from kullback.rollouts.part import pyarrow

AHEAD = 4
"""Windows a worker that are read before those before them are scored: what is kept in memory."""

Columns = list[dict[str, np.ndarray]]


class Piece(NamedTuple):
    """What a worker is given."""

    number: int
    readings: Sequence[Reading]


@dataclass(frozen=True)
class Reviewing:
    """Who is to score, and how; the names are those of `score_files`. Workers take models by their names."""

    policy: str | Path | Scorer | None
    reference: str | Path | Scorer | None
    device: str
    dtype: str
    temperature: float
    allow_outside_mass: bool
    batch_size: int | Literal["auto"]

    @property
    def rows(self) -> int:
        """Sequences at a time, at most."""
        return MOST_ROWS if self.batch_size == "auto" else self.batch_size

    def judges(self) -> Judges:
        """The models, loaded."""
        return Judges.named(
            self.policy,
            self.reference,
            device=self.device,
            dtype=self.dtype,
            temperature=self.temperature,
            allow_outside_mass=self.allow_outside_mass,
        )

    def worker(self) -> Reviewer:
        """Load them, and be ready."""
        one_thread()
        return Reviewer(self, self.judges())

    @property
    def settings(self) -> Record:
        """What decides the scores of given tokens."""
        named = {"policy": self.policy, "reference": self.reference}
        names = {role: None if name is None else str(name) for role, name in named.items()}
        weights = {f"{role}'s files": None if name is None else weights_digest(name) for role, name in names.items()}
        rest = ("dtype", "temperature", "allow_outside_mass", "batch_size")
        return {**names, **weights, **{name: getattr(self, name) for name in rest}}


@dataclass(frozen=True)
class Reviewer:
    """A worker: models, and how they are asked."""

    job: Reviewing
    judges: Judges

    def finish(self, number: Piece) -> Answer:
        """Score a window; whatever goes wrong is told and not raised."""
        piece = number
        try:
            judges = replace(self.judges, outside={})
            columns = judges.batched(piece.readings, self.job.batch_size, lambda rows: None)
            return Answer(piece.number, packed(piece.readings, columns, judges.outside))
        except Exception as error:
            return Answer(piece.number, error=told(error, self.job.rows))


@dataclass
class Crew:
    """Workers that score windows of rows.

    Attributes:
        engine: who they are.
        job: what they are told.
        shards: where finished windows are.
    """

    engine: Engine
    job: Reviewing
    shards: Shards
    _pool: Pool | None = None
    _idle: list[int] = field(default_factory=list)
    _at: dict[int, int] = field(default_factory=dict)
    _lost: int = 0

    def scored(
        self, windows: Iterator[list[Entry]], source: str, check: Callable[[], None]
    ) -> Iterator[tuple[list[Entry], Columns, Mapping[str, Outside]]]:
        """The windows in their order, with their scores and what models gave to tokens that the other lacks.

        Args:
            windows: rows, read as they are needed.
            source: what they are read from.
            check: raises, where the job was asked to stop.

        Raises:
            FileError: a shard is of other rows, or cannot be written or read.
            ModelError: workers end one after another.
        """
        done = self.shards.begin({**self.job.settings, "file": source})
        waiting: dict[int, list[Entry]] = {}
        left: deque[int] = deque()
        numbered, following = enumerate(windows), 0
        try:
            while True:
                check()
                while len(waiting) < AHEAD * self.engine.workers and (one := next(numbered, None)) is not None:
                    waiting[one[0]] = one[1]
                    if one[0] not in done:
                        left.append(one[0])
                if not waiting:
                    return
                while following in done and following in waiting:
                    entries = waiting.pop(following)
                    yield entries, *unpacked(_readings(entries), self.shards.path(following))
                    following += 1
                if left or self._at:
                    self._hand_out(left, waiting)
                    done |= self._heard(left)
        finally:
            if self._pool is not None:
                self._pool.close()

    def _hand_out(self, left: deque[int], waiting: Mapping[int, list[Entry]]) -> None:
        if self._pool is None and left:
            self._pool = pool_of(self.engine, self.job)
        pool = self._pool
        while pool is not None and left and (self._idle or len(self._at) < self.engine.workers):
            worker = self._idle.pop() if self._idle else pool.start()
            self._at[worker] = left.popleft()
            pool.give(worker, Piece(self._at[worker], _readings(waiting[self._at[worker]])))

    def _heard(self, left: deque[int]) -> set[int]:
        """The windows that were finished, and are kept."""
        found: set[int] = set()
        for worker, answer in () if self._pool is None else self._pool.wait(PATIENCE):
            if answer is None:
                if worker in self._at:
                    left.appendleft(self._at.pop(worker))
                self._idle = [other for other in self._idle if other != worker]
                self._lost += 1
                if self._lost >= LOSSES:
                    raise ModelError(
                        f"{LOSSES} workers ended one after another without scoring a row: they may have run out of "
                        "memory, so pass fewer --workers or a smaller --batch-size"
                    )
                continue
            if answer.shard is None:
                raise answer.raised()
            self._lost = 0
            self._at.pop(worker, None)
            self._idle.append(worker)
            self.shards.commit(answer.batch, answer.shard)
            found.add(answer.batch)
        return found


def shards_of(output: Path) -> Shards:
    """Where finished windows of a file that is written are kept until it is."""
    return Shards(output.with_name(f"{output.name}.shards"))


def _readings(entries: Sequence[Entry]) -> list[Reading]:
    return [entry.reading for entry in entries]


def packed(readings: Sequence[Reading], columns: Columns, outside: Mapping[str, Outside]) -> bytes:
    """The scores of rows as a Parquet file: every number as it was computed, and a digest of the tokens."""
    pa = pyarrow()
    names = [name for name in columns[0] if all(name in row for row in columns)]
    held = {name: lists([np.asarray(row[name]) for row in columns])[0] for name in names}
    said = {"tokens": _digest(readings), "outside": json.dumps({name: asdict(one) for name, one in outside.items()})}
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table(held).replace_schema_metadata(said), sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def unpacked(readings: Sequence[Reading], shard: Path) -> tuple[Columns, Mapping[str, Outside]]:
    """What `packed` was given.

    Raises:
        FileError: the file is damaged, or of other rows.
    """
    pa = pyarrow()
    try:
        table = pa.parquet.read_table(io.BytesIO(shard.read_bytes()))
        said = table.schema.metadata
        outside = {name: Outside(**one) for name, one in json.loads(said[b"outside"]).items()}
        held: dict[str, Any] = {name: rows_in(table[name].combine_chunks(), 0) for name in table.column_names}
        tokens = said[b"tokens"].decode()
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise FileError(f"{shard} is damaged ({error}): remove it, and --resume makes it again") from error
    if tokens != _digest(readings):
        raise FileError(
            f"{shard} holds scores of other tokens than are read now: the file changed, or rows are left out that were "
            "not; pass --overwrite to begin anew"
        )
    return [{name: rows[i] for name, rows in held.items()} for i in range(len(readings))], outside


def _digest(readings: Sequence[Reading]) -> str:
    rows = [[list(one.prompt), list(one.completion), one.drew] for one in readings]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
