"""`token_exports/step_N/rank_R.jsonl` of prime-rl: policy and sampler on whole sequences, several in a packed row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.packed import sequences
from kullback.rollouts.readers.values import Fields, checked
from kullback.rollouts.record import Rollout

VERSION = 1

COLUMNS = {"behavior_logprobs": "inference_logprobs", "logprobs": "trainer_logprobs"}


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return {"schema_version", "token_ids", "inference_logprobs", "trainer_logprobs", "loss_mask"} <= set(record)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row = Fields(record)
    if (version := row.whole("schema_version")) > VERSION:
        raise InputError(f"schema_version is {version}, but {VERSION} at most is known here: upgrade kullback")
    step, environment = row.maybe(row.whole, "step"), row.maybe(row.text, "env_name")
    extra = {name: row.whole(name) for name in ("rank", "micro_step", "export_sequence_idx") if name in row}
    for found in sequences(row, COLUMNS, ids="token_ids", mask="loss_mask", positions="position_ids"):
        yield Rollout(**found, step=step, extra=extra if environment is None else {"environment": environment, **extra})


def _metadata(record: Mapping[str, Any]) -> Metadata:
    """The trainer divides its logits by the temperature of sampling, which the file does not name."""
    return Metadata(law={"logprobs": "temperature"})


FORMAT = Format(
    name="prime-rl-exports",
    written_by="prime-rl (token_exports, schema 1)",
    containers=("jsonl",),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
    marker="STABLE",
)
