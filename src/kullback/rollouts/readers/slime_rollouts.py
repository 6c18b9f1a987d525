"""What slime and miles write with `--save-debug-rollout-data`: samples with the sampler's log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked, samples_alone, split
from kullback.rollouts.record import Finish, Rollout

FINISH: Mapping[str | None, Finish] = {"completed": "end", "truncated": "length"}
"""What a sample's status says; others (aborted, failed, pending) say nothing of how its text ended."""


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    samples = record.get("samples")
    return "format_version" not in record and isinstance(samples, list) and _is_sample(samples[0])


def _is_sample(sample: object) -> bool:
    return isinstance(sample, Mapping) and {"tokens", "response_length", "rollout_log_probs"} <= set(sample)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    whole = Fields(record)
    for sample in whole.parts("samples"):
        if sample.maybe(sample.get, "remove_sample") is True:
            continue  # slime leaves its tokens out of the loss
        prompt, tokens = split(sample.ids("tokens"), sample.whole("response_length"), sample.name("response_length"))
        reward = sample.maybe(sample.get, "reward")
        yield Rollout(
            behavior_logprobs=sample.numbers("rollout_log_probs"),
            prompt_tokens=prompt,
            tokens=tokens,
            mask=sample.maybe(sample.mask, "loss_mask"),
            prompt_id=sample.maybe(sample.whole, "group_index"),
            sample=sample.maybe(sample.whole, "index"),
            step=whole.maybe(whole.whole, "rollout_id"),
            reward=None if isinstance(reward, Mapping) else sample.maybe(sample.number, "reward"),
            finish=FINISH.get(sample.maybe(sample.text, "status"), "unknown"),
            text=sample.maybe(sample.text, "response"),
            extra=sample.part("reward").rest() if isinstance(reward, Mapping) else {},
        )


def _metadata(record: Mapping[str, Any]) -> Metadata:
    """SGLang's log-probs are those of logits over the temperature, before a nucleus is cut out."""
    return Metadata(law={"behavior_logprobs": "temperature"})


FORMAT = Format(
    name="slime",
    written_by="slime and miles (--save-debug-rollout-data)",
    containers=("torch",),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    metadata=_metadata,
    steps=(),
    alone=samples_alone,
)
