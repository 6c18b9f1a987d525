"""SkyRL's training batches, once they are plain columns: the log-probs of sampler, policy and reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, batch_rows, checked, ids, mask, numbers, rows_alone, same_length
from kullback.rollouts.record import Rollout

COLUMNS = {
    "behavior_logprobs": "rollout_logprobs",
    "logprobs": "action_log_probs",
    "ref_logprobs": "base_action_log_probs",
}
"""The log-probs of a rollout, and what they are called in a batch."""

NEEDED = ("sequences", "attention_mask", "response_mask", "loss_mask")


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return {"sequences", "response_mask", "loss_mask"} <= set(record) and bool(set(record) & set(COLUMNS.values()))


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    batch = Fields(record)
    for number, row in enumerate(batch_rows(batch, NEEDED, (*COLUMNS.values(), "rewards", "uids"))):
        yield _rollout(row, number)


def _rollout(row: Mapping[str, Any], number: int) -> Rollout:
    """A row, padded on any side: the response is the last of its real tokens."""
    response, counts, real = (
        mask(f"{name}[{number}]", row[name]) for name in ("response_mask", "loss_mask", "attention_mask")
    )
    found: dict[str, Any] = {name: numbers(f"{at}[{number}]", row[at]) for name, at in COLUMNS.items() if at in row}
    sequence = ids(f"sequences[{number}]", row["sequences"])
    same_length(sequences=sequence, attention_mask=real)
    same_length(response_mask=response, loss_mask=counts, **found)
    tokens = [token for token, is_real in zip(sequence, real, strict=True) if is_real]
    start = len(tokens) - int(response.sum())
    if start < 0:
        raise InputError(
            f"response_mask[{number}] has {len(tokens) - start} tokens, but {len(tokens)} of its sequence are real"
        )
    reward = numbers(f"rewards[{number}]", row["rewards"]) if "rewards" in row else None
    return Rollout(
        **{name: column[response] for name, column in found.items()},
        prompt_tokens=tokens[:start],
        tokens=tokens[start:],
        mask=counts[response],
        prompt_id=str(row["uids"]) if "uids" in row else None,
        reward=None if reward is None else float(np.nansum(reward)),
    )


FORMAT = Format(
    name="skyrl",
    written_by="SkyRL (dumped_data, converted)",
    containers=("torch", "npz", "json", "jsonl"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    alone=lambda record: rows_alone(record, NEEDED),
)
