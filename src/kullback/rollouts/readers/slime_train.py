"""What slime writes with `--save-debug-train-data`: samples with the log-probs of sampler, policy and reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.errors import InputError
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked, samples_alone, split
from kullback.rollouts.record import Rollout

COLUMNS = {"behavior_logprobs": "rollout_log_probs", "logprobs": "log_probs", "ref_logprobs": "ref_log_probs"}
"""The log-probs of a rollout, and what they are called in a sample."""


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return "format_version" in record and isinstance(record.get("samples"), list) and "rollout_id" in record


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    whole = Fields(record)
    if (version := whole.whole("format_version")) != 2:
        raise InputError(f"format_version is {version}, but only 2 is known here: dump again with a slime of 2026")
    raw = whole.numbers("raw_reward") if "raw_reward" in whole else ()
    for sample in whole.parts("samples"):
        prompt, tokens = split(sample.ids("tokens"), sample.whole("response_lengths"), sample.name("response_lengths"))
        position = sample.maybe(sample.whole, "rollout_position")
        has_raw = position is not None and 0 <= position < len(raw)
        cut = sample.maybe(sample.whole, "truncated")
        yield Rollout(
            **sample.columns(COLUMNS),
            prompt_tokens=prompt,
            tokens=tokens,
            mask=sample.mask("loss_masks"),
            sample=sample.maybe(sample.whole, "sample_index"),
            step=whole.maybe(whole.whole, "rollout_id"),
            reward=float(raw[position or 0]) if has_raw else sample.maybe(sample.number, "rewards"),
            finish="unknown" if cut is None else "length" if cut else "end",
        )


def _metadata(record: Mapping[str, Any]) -> Metadata:
    """slime divides logits by the temperature of its rollouts in all three; which it is, the file does not say."""
    return Metadata(law=dict.fromkeys(COLUMNS, "temperature"))


FORMAT = Format(
    name="slime-train",
    written_by="slime (--save-debug-train-data, format 2)",
    containers=("torch",),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
    steps=(),
    alone=samples_alone,
)
