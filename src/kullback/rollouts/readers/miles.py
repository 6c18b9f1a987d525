"""`dashboard_columns/rollout_N.parquet` of miles: a sequence a row, with the sampler's log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked, split
from kullback.rollouts.record import Rollout

NAMES = {"sample_index", "response_length", "total_length", "tokens", "loss_mask", "rollout_log_probs"}


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return set(record) >= NAMES


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row = Fields(record)
    prompt, tokens = split(row.ids("tokens"), row.whole("response_length"), "response_length")
    yield Rollout(
        behavior_logprobs=row.numbers("rollout_log_probs"),
        prompt_tokens=prompt,
        tokens=tokens,
        mask=row.mask("loss_mask"),
        sample=row.maybe(row.whole, "sample_index"),
    )


FORMAT = Format(
    name="miles",
    written_by="miles (--dump-details, dashboard_columns)",
    containers=("parquet",),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    steps=(r"rollout_(\d+)\.parquet",),
)
