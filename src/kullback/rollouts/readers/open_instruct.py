"""`RUN_rollouts_N.jsonl` of open-instruct: a sample a line, with the sampler's log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked, same_length
from kullback.rollouts.record import Finish, Rollout

FINISH: Mapping[str | None, Finish] = {"stop": "end", "length": "length"}


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return {"prompt_idx", "sample_idx", "prompt_tokens", "response_tokens", "finish_reason"} <= set(record)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row = Fields(record)
    tokens, logprobs = row.ids("response_tokens"), row.numbers("logprobs")
    same_length(response_tokens=tokens, logprobs=logprobs)
    yield Rollout(
        behavior_logprobs=logprobs,
        prompt_tokens=row.ids("prompt_tokens"),
        tokens=tokens,
        # Prompts are counted from 0 in every step.
        prompt_id=f"{row.whole('step')}-{row.whole('prompt_idx')}" if "step" in row else row.whole("prompt_idx"),
        sample=row.maybe(row.whole, "sample_idx"),
        step=row.maybe(row.whole, "step"),
        reward=row.maybe(row.number, "reward"),
        finish=FINISH.get(row.maybe(row.text, "finish_reason"), "unknown"),
        extra=row.rest(),
    )


FORMAT = Format(
    name="open-instruct",
    written_by="open-instruct (RUN_rollouts_N.jsonl)",
    containers=("jsonl",),
    recognises=_recognises,
    rollouts=checked(_rollouts),
    companions=("*_metadata.jsonl",),
)
