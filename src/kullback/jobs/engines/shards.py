"""The shards of a run: a Parquet file a batch, which has its name only once it is whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.documents import Record
from kullback.errors import FileError, shown
from kullback.jobs.outputs import SHARDS
from kullback.jobs.plans import Batch, Plan
from kullback.jobs.worker import Finished
from kullback.models.pairs import Scores
from kullback.rollouts import Rollout
from kullback.rollouts.part import pyarrow, reason

if TYPE_CHECKING:
    import pyarrow as pa

PLAN, PENDING = "plan.json", ".pending"
OF_ROLLOUT = ("tokens", "logprobs", "ref_logprobs", "behavior_logprobs", "token_kl", "ref_mass", "state", "deviation")
OF_SCORES = tuple(field.name for field in fields(Scores) if field.name != "bracket")
"""Of a bracket what counts is in `Rollout.extra`."""

CLOSE = 1e-3
"""Nats up to which two log-probs of one token are one model's: bfloat16 on two devices differs by less at one token
of a short prompt, and another model by more."""


def packed(finished: Finished) -> bytes:
    """A finished batch as a Parquet file: every number as it was computed, in its own precision."""
    pa = pyarrow()
    columns: dict[str, Any] = {
        name: pa.array([getattr(rollout, name) for rollout in finished.rollouts]) for name in ("prompt_id", "sample")
    }
    columns |= {"finish": pa.array([rollout.finish for rollout in finished.rollouts])}
    columns |= {"extra": pa.array([json.dumps(dict(rollout.extra)) for rollout in finished.rollouts])}
    widths: dict[str, int] = {}
    both: tuple[tuple[str, Sequence[str], Sequence[Any]], ...] = (
        ("", OF_ROLLOUT, finished.rollouts),
        ("scores.", OF_SCORES, finished.scores),
    )
    for prefix, names, rows in both:
        for name in names:
            values = [getattr(row, name) for row in rows]
            if all(value is not None for value in values):
                columns[prefix + name], widths[prefix + name] = lists([np.asarray(value) for value in values])
    table = pa.table(columns).replace_schema_metadata({"widths": json.dumps(widths)})
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def unpacked(plan: Plan, batch: Batch, shard: Path) -> Finished:
    """What `packed` was given.

    Raises:
        FileError: the file is damaged, or not of this batch.
    """
    pa = pyarrow()
    try:
        table = pa.parquet.read_table(io.BytesIO(shard.read_bytes()))
        draws = list(zip(table["prompt_id"].to_pylist(), table["sample"].to_pylist(), strict=True))
        extra = [json.loads(one) for one in table["extra"].to_pylist()]
        widths = json.loads(table.schema.metadata[b"widths"])
        columns: dict[str, Any] = {name: rows_in(table[name].combine_chunks(), width) for name, width in widths.items()}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise FileError(f"{shard} is damaged ({error}): remove it, and --resume makes it again") from error
    if draws != [tuple(draw) for draw in batch.draws]:
        raise FileError(f"{shard} holds other rows than its plan asks for: remove it, and --resume makes it again")
    ends = table["finish"].to_pylist()
    rollouts = [
        Rollout(
            prompt_id=draw.prompt,
            sample=draw.sample,
            prompt_tokens=list(plan.prompts[draw.prompt]),
            mask=np.ones(len(columns["tokens"][row]), dtype=bool),
            sampled_from=batch.sampled_from,
            finish=ends[row],
            extra=extra[row],
            **{name: columns[name][row] for name in OF_ROLLOUT if name in columns},
        )
        for row, draw in enumerate(batch.draws)
    ]
    held = [name for name in OF_SCORES if f"scores.{name}" in columns]
    scores = [Scores(**{name: columns[f"scores.{name}"][row] for name in held}) for row in range(len(draws))]
    return Finished(tuple(rollouts), tuple(scores))


def lists(values: Sequence[np.ndarray]) -> tuple[pa.Array, int]:
    """Rows of numbers, or of as many numbers a token, as lists; and how many numbers a token has, 0 for one alone."""
    pa = pyarrow()
    width = values[0].shape[1] if values[0].ndim > 1 else 0
    flat = np.concatenate([value.reshape(-1) for value in values])
    ends = np.cumsum([0, *(value.size for value in values)])
    return pa.ListArray.from_arrays(pa.array(ends, type=pa.int32()), pa.array(flat)), width


def rows_in(column: Any, width: int) -> list[np.ndarray]:
    """What `lists` was given."""
    flat, ends = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
    rows = [flat[start:end].copy() for start, end in pairwise(ends)]
    return [row.reshape(-1, width) for row in rows] if width else rows


class Shards:
    """The folder of a run's shards, and the plan that they are of.

    Args:
        folder: in which they are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, settings: Record) -> set[int]:
        """Note the plan, or hold it against the one that is noted; which batches are there.

        Raises:
            FileError: the shards are of another plan, or the folder cannot be written to.
        """
        noted = self.noted()
        if noted is None:
            self.remove()  # shards without their plan may be anyone's
            self._write(PLAN, json.dumps(settings, indent=2).encode())
            return set()
        for name in {**settings, **noted}:
            if not _same(noted.get(name), settings.get(name)):
                raise FileError(
                    f"{self.folder} is of a run with {name} {shown(noted.get(name))}, and {shown(settings.get(name))} "
                    "came: resume with the same settings, or choose another --output"
                )
        for left in self.folder.glob(f"*{PENDING}"):
            left.unlink(missing_ok=True)
        return {int(path.stem) for path in self.folder.glob("*.parquet")}

    def noted(self) -> Record | None:
        """The plan's settings as they were noted; None where there is none."""
        try:
            record: Record = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FileError(f"{self.folder / PLAN} cannot be read ({error}): choose another --output") from error
        return record

    def commit(self, number: int, shard: bytes) -> None:
        """Keep a batch: written beside its place first, so that what has its name is whole.

        Raises:
            FileError: there is no room.
        """
        self._write(self.path(number).name, shard)

    def path(self, number: int) -> Path:
        """Of a batch's shard."""
        return self.folder / f"{number:06d}.parquet"

    def remove(self) -> None:
        """Remove all of them, once nothing rests on them any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        pending = self.folder / f"{name}{PENDING}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with pending.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(pending, self.folder / name)
        except OSError as error:
            with suppress(OSError):
                pending.unlink()
            raise FileError(
                f"{self.folder / name} cannot be written ({reason(error)}): free some room and go on with --resume"
            ) from error


def settings_of(plan: Plan, names: Mapping[str, object], fingerprint: Iterable[float]) -> Record:
    """What decides the rows of a plan's shards.

    Args:
        plan: what is asked for.
        names: of the models, and how they are loaded.
        fingerprint: log-probs that the models give to one token, by which another model of the same name is known.
    """
    rest = {
        "laws": asdict(plan.laws),
        "prompts": plan.prompts,
        "batches": [tuple(batch.draws) for batch in plan.batches],
    }
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return {**names, **plan.settings, "prompts and batches": digest, "log-probs of the first token": list(fingerprint)}


def _same(noted: Any, now: Any) -> bool:
    if isinstance(noted, list) and isinstance(now, list) and len(noted) == len(now):
        return all(abs(one - other) <= CLOSE for one, other in zip(noted, now, strict=True))
    return bool(noted == now)


def shards_in(output: Path) -> Shards:
    """The shards of what is written to a folder."""
    return Shards(output / SHARDS)
