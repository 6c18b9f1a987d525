"""Rollouts: a table of token log-probs, one row a sequence, and its Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kullback.errors import FileError, MissingPackageError
from kullback.estimation.sequences import Sequences

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Rollout:
    """One sampled sequence, (tokens,) arrays, log-probs in nats.

    Attributes:
        prompt_id: the prompt's number; rows of one prompt form a cluster.
        prompt: its token ids.
        tokens: the completion's token ids, the end token included.
        mask: True where a token counts.
        logprobs, ref_logprobs: log q of the policy, log p of the reference.
        token_kl: exact token KL, of what drew the sequence from the other model.
        ref_mass: the other model's probability of the tokens that the sampler does not exclude.
        sampled_from: which model drew it.
        temperature, top_p, top_k: how.
        policy_logprobs, reference_logprobs: "processed" by the sampling settings, or "raw".
    """

    prompt_id: int
    prompt: Sequence[int]
    tokens: Sequence[int]
    mask: np.ndarray
    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    token_kl: np.ndarray
    ref_mass: np.ndarray
    sampled_from: Literal["policy", "reference"] = "policy"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    policy_logprobs: Literal["raw", "processed"] = "raw"
    reference_logprobs: Literal["raw", "processed"] = "raw"


TOKEN_COLUMNS = ("logprobs", "ref_logprobs", "token_kl", "ref_mass")


def to_sequences(rollouts: Sequence[Rollout]) -> Sequences:
    """Rollouts of one sampler as a padded batch in which q is what drew them and groups are prompts."""
    time = max(len(rollout.tokens) for rollout in rollouts)

    def padded(name: str) -> np.ndarray:
        return np.stack([_pad(np.asarray(getattr(rollout, name)), time) for rollout in rollouts])

    q, p = ("logprobs", "ref_logprobs")
    if rollouts[0].sampled_from == "reference":
        q, p = p, q
    return Sequences.of(
        padded(q),
        padded(p),
        padded("mask"),
        token_kl=padded("token_kl"),
        ref_mass=padded("ref_mass"),
        groups=[rollout.prompt_id for rollout in rollouts],
    )


def _pad(row: np.ndarray, time: int) -> np.ndarray:
    return np.pad(row, (0, time - len(row)))


class RolloutWriter:
    """Writes rollouts to a Parquet file batch by batch; a batch that was written stays.

    The file has its name from the start of `close`; until then it is NAME.part.
    Use as a context manager: whatever ends the block, the finished batches are kept.

    Raises:
        FileError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(self.path.name + ".part")
        self._writer: Any = None

    def write(self, rollouts: Sequence[Rollout]) -> None:
        """Append rows, as one row group."""
        pa, pq = _pyarrow()
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._part,
                    _schema(pa),
                    compression="zstd",
                    use_dictionary=False,
                    use_byte_stream_split=[f"{name}.list.element" for name in TOKEN_COLUMNS],
                )
            self._writer.write_table(pa.Table.from_pylist([asdict(row) for row in rollouts], schema=_schema(pa)))
        except OSError as error:
            raise FileError(f"{self.path} cannot be written ({error.strerror or error})") from error

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            os.replace(self._part, self.path)

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_rollouts(path: str | Path, rollouts: Sequence[Rollout]) -> None:
    """Write a Parquet file of rollouts."""
    with RolloutWriter(path) as writer:
        writer.write(rollouts)


def read_rollouts(path: str | Path) -> list[Rollout]:
    """Read a Parquet file of rollouts.

    Raises:
        FileError: no such file, not Parquet, or without the columns of rollouts.
    """
    pa, pq = _pyarrow()
    names = [field.name for field in fields(Rollout)]
    try:
        rows = pq.read_table(path, columns=names).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise FileError(f"{path} cannot be read as rollouts ({error}): check the path") from error
    missing = set(names) - set(rows[0] if rows else names)
    if missing:
        raise FileError(f"{path} has no column {', '.join(sorted(missing))}: it is not a table of rollouts")
    return [Rollout(**{**row, **_arrays(row)}) for row in rows]


def _arrays(row: dict[str, Any]) -> dict[str, np.ndarray]:
    numbers = {name: np.asarray(row[name], dtype=np.float32) for name in TOKEN_COLUMNS}
    return {**numbers, "mask": np.asarray(row["mask"], dtype=bool)}


def _schema(pa: Any) -> pa.Schema:
    kinds: dict[str, Any] = {
        "prompt_id": pa.int64(),
        "prompt": pa.list_(pa.int32()),
        "tokens": pa.list_(pa.int32()),
        "mask": pa.list_(pa.bool_()),
        **{name: pa.list_(pa.float32()) for name in TOKEN_COLUMNS},
        "temperature": pa.float64(),
        "top_p": pa.float64(),
        "top_k": pa.int64(),
    }
    return pa.schema([(field.name, kinds.get(field.name, pa.string())) for field in fields(Rollout)])


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "hf") from None
    return pa, pq


def count_tokens(rollouts: Iterable[Rollout]) -> int:
    """Counted tokens of all rollouts."""
    return sum(int(np.sum(rollout.mask)) for rollout in rollouts)
