"""Batches of verl, a DataProto or what RolloutSkip keeps, once they are plain columns: a row each a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, batch_rows, checked, ids, mask, numbers, rows_alone, same_length
from kullback.rollouts.record import Rollout

COLUMNS = {"behavior_logprobs": "rollout_log_probs", "logprobs": "old_log_probs", "ref_logprobs": "ref_log_prob"}
"""The log-probs of a rollout, and what they are called in a batch."""

NEEDED = ("responses", "response_mask")

BESIDE = ("prompts", "attention_mask", "uid", "keys")

REWARDS = ("token_level_scores", "rm_scores", "token_level_rewards")
"""Rewards by token, the first of which is that before any penalty."""


def _columns(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of a batch; RolloutSkip keeps them within, beside the keys of its rows."""
    within = record.get("tensordict")
    return {**record, **within} if isinstance(within, Mapping) else record


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    named = set(_columns(record))
    return {"responses", "response_mask"} <= named and bool(named & set(COLUMNS.values()))


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    batch = Fields(_columns(record))
    step = batch.maybe(batch.whole, "global_steps")
    for number, row in enumerate(batch_rows(batch, NEEDED, (*COLUMNS.values(), *REWARDS, *BESIDE))):
        yield _rollout(row, number, step)


def _rollout(row: Mapping[str, Any], number: int, step: int | None) -> Rollout:
    tokens = ids(f"responses[{number}]", row["responses"])
    counts = mask(f"response_mask[{number}]", row["response_mask"])
    found: dict[str, Any] = {name: numbers(f"{at}[{number}]", row[at]) for name, at in COLUMNS.items() if at in row}
    same_length(responses=tokens, response_mask=counts, **found)
    prompt, length = _lengths(row, number, counts)
    group, sample = _named(row)
    reward = next((row[name] for name in REWARDS if name in row), None)
    return Rollout(
        **{name: column[:length] for name, column in found.items()},
        prompt_tokens=prompt,
        tokens=tokens[:length],
        mask=counts[:length],
        prompt_id=group,
        sample=sample,
        step=step,
        reward=None if reward is None else float(np.nansum(numbers(f"rewards[{number}]", reward))),
    )


def _lengths(row: Mapping[str, Any], number: int, counts: np.ndarray) -> tuple[list[int] | None, int]:
    """The prompt without its padding, None where that cannot be told, and the tokens of the response."""
    counted = np.flatnonzero(counts)
    last = int(counted[-1]) + 1 if len(counted) else 0
    prompt = ids(f"prompts[{number}]", row["prompts"]) if "prompts" in row else None
    if "attention_mask" not in row or prompt is None:
        return (None if prompt is None else _unpadded(prompt)), last
    real = mask(f"attention_mask[{number}]", row["attention_mask"])
    same_length(**{"attention_mask": real, "prompts and responses": [*prompt, *counts]})
    kept = [token for token, is_real in zip(prompt, real, strict=False) if is_real]
    return kept, max(last, int(real[len(prompt) :].sum()))


def _unpadded(prompt: list[int]) -> list[int] | None:
    """A prompt that no mask goes with; one that begins with the same token twice may be padded."""
    return None if len(prompt) > 1 and prompt[0] == prompt[1] else prompt


def _named(row: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The prompt and the number of its completion: a uid, or a key, which is prompt_completion_output."""
    if "uid" in row:
        return str(row["uid"]), None
    prompt, *numbers_of = str(row["keys"]).rsplit("_", 2) if "keys" in row else (None,)
    return prompt, int(numbers_of[0]) if numbers_of and numbers_of[0].isdecimal() else None


def _metadata(record: Mapping[str, Any]) -> Metadata:
    """verl divides the logits of policy and reference by the temperature of sampling, which the batch does not name."""
    return Metadata(law={"logprobs": "temperature", "ref_logprobs": "temperature"})


FORMAT = Format(
    name="verl",
    written_by="verl (DataProto and RolloutSkip, converted)",
    containers=("torch", "npz", "json", "jsonl"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
    companions=("meta.json",),
    alone=lambda record: rows_alone({**_columns(record), "tensordict": None}, NEEDED),
    steps=(r"step[_=-]?(\d+)", r"/(\d+)/\d+/tq_batch[^/]*$"),
)
