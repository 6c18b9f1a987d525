"""`train_data_stepN.jsonl` of NeMo-RL: policy and sampler on whole sequences, padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import InputError, ShapeError
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked, same_length
from kullback.rollouts.record import Rollout

COLUMNS = {"behavior_logprobs": "generation_logprobs", "logprobs": "prev_logprobs"}


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return {"token_ids", "token_loss_mask", "generation_logprobs"} <= set(record)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row = Fields({name: value if name == "idx" else _single(name, value) for name, value in record.items()})
    if not _sample_counts(row):
        return
    ids, mask = row.ids("token_ids"), row.mask("token_loss_mask")
    columns = row.columns(COLUMNS)
    same_length(token_ids=ids, token_loss_mask=mask, **columns)
    length = row.whole("input_lengths") if "input_lengths" in row else len(ids)
    if not 0 <= length <= len(ids):
        raise InputError(f"input_lengths is {length}, but the record has {len(ids)} tokens")
    mask[:1] = False  # the first token has no prefix: its 0.0 is no log-prob, and the loss leaves it out
    mask[length:] = False
    start = int(mask.argmax()) if mask.any() else length
    yield Rollout(
        **{name: column[start:length] for name, column in columns.items()},
        prompt_tokens=ids[:start],
        tokens=ids[start:length],
        mask=mask[start:length],
        sample=row.maybe(row.whole, "idx"),
        reward=row.maybe(row.number, "rewards"),
        text=_text(row),
        extra=row.rest(),
    )


def _single(name: str, value: object) -> object:
    """A value without the batch axis of 1 that all but idx have; a mapping, as agent_ref can be, has none."""
    if value is None or isinstance(value, Mapping):
        return None
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 1:
        size = f"a list of {len(value)}" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise ShapeError(f"{name} is {size}, but NeMo-RL writes every value but idx with a batch axis of 1")
    return value[0]


def _sample_counts(row: Fields) -> bool:
    weight = row.number("sample_loss_mask")
    if weight not in (0, 1):
        raise InputError(f"sample_loss_mask is {weight:g}, but it is 0 or 1: weights of sequences are no mask")
    return weight == 1


def _text(row: Fields) -> str | None:
    """What the last message says."""
    messages = row.maybe(row.get, "content")
    last = messages[-1] if isinstance(messages, list | tuple) and messages else messages
    return last if isinstance(last, str) else None


FORMAT = Format(
    name="nemo-rl",
    written_by="NeMo-RL (train_data_stepN.jsonl)",
    containers=("jsonl", "json"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
)
