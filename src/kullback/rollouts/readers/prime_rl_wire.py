"""Samples that prime-rl sends to its trainer, as JSON: sampler and reference on whole sequences, packed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kullback.rollouts.metadata import Metadata, Model
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.packed import sequences
from kullback.rollouts.readers.values import Fields, checked, same_length
from kullback.rollouts.record import Rollout


@dataclass(frozen=True)
class Shape:
    """What the fields of one kind of record are called."""

    ids: str
    mask: str
    sampler: str
    environment: str
    positions: str | None


SHAPES = (
    Shape("token_ids", "mask", "logprobs", "env_name", None),
    Shape("input_ids", "loss_mask", "inference_logprobs", "env_names", "position_ids"),
)
"""A training sample, and a micro-batch in which samples are packed."""


def _shape(record: Mapping[str, Any]) -> Shape | None:
    for shape in SHAPES:
        if {shape.ids, shape.mask, shape.sampler, shape.environment, "temperatures"} <= set(record):
            return shape
    return None


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return _shape(record) is not None


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row, shape = Fields(record), _shape(record) or SHAPES[0]
    columns = {"behavior_logprobs": shape.sampler, "logprobs": "trainer_logprobs", "ref_logprobs": "ref_logprobs"}
    environment = row.maybe(row.text, "env_name")
    for found in sequences(row, columns, ids=shape.ids, mask=shape.mask, positions=shape.positions):
        yield Rollout(**found, extra={} if environment is None else {"environment": environment})


def _metadata(record: Mapping[str, Any]) -> Metadata:
    """prime-rl's engine returns the law that it samples from, that of logits over the temperature."""
    row, shape = Fields(record), _shape(record) or SHAPES[0]
    temperatures, counted = row.numbers("temperatures"), row.mask(shape.mask)
    same_length(temperatures=temperatures, **{shape.mask: counted})
    known = np.unique(temperatures[counted])
    if len(known) != 1 or not known[0] > 0:
        return Metadata()
    model = Model(sampling={"temperature": float(known[0])})
    return Metadata(behavior=model, law={"behavior_logprobs": "raw" if known[0] == 1 else "temperature"})


FORMAT = Format(
    name="prime-rl-wire",
    written_by="prime-rl (TrainingSample and MicroBatch, as JSON)",
    containers=("jsonl", "json"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
)
