"""Records of RLLoggingBoard, as forks of OpenRLHF write them: policy and reference on the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kullback.errors import ShapeError
from kullback.rollouts.readers.format import Format
from kullback.rollouts.readers.values import Fields, checked
from kullback.rollouts.record import Rollout


def _recognises(record: Mapping[str, Any], path: Path) -> bool:
    return {"response_tokens", "logprobs", "ref_logprobs"} <= set(record)


def _rollouts(record: Mapping[str, Any]) -> Iterator[Rollout]:
    row = Fields(record)
    logprobs, tokens = row.numbers("logprobs"), row.listed("response_tokens")
    if len(tokens) - len(logprobs) not in (0, 1):
        raise ShapeError(
            f"logprobs has {len(logprobs)} entries and response_tokens has {len(tokens)}, but it has as many, "
            "or one more for padding"
        )
    for name in ("values", "token_rewards", "response"):
        row.maybe(row.get, name)
    yield Rollout(
        logprobs=logprobs,
        mask=_counts(tokens, len(logprobs)),
        ref_logprobs=row.numbers("ref_logprobs"),
        step=row.maybe(row.whole, "step"),
        reward=row.maybe(row.number, "reward"),
        text=row.maybe(row.text, "response"),
        extra=row.rest(),
    )


def _counts(tokens: Sequence[Any], length: int) -> np.ndarray | None:
    """All but the padding at the end; what fills it is the text behind the log-probs, or one that says so.

    Where the end token fills it too, the first one is the end.
    """
    named = bool(tokens) and isinstance(tokens[-1], str) and "pad" in tokens[-1].lower()
    if not named and len(tokens) == length:
        return None
    run = next((n for n, token in enumerate(reversed(tokens[:length])) if token != tokens[-1]), length)
    return np.arange(length) < length - max(run - (not named), 0)


FORMAT = Format(
    name="rl-logging-board",
    written_by="RLLoggingBoard (forks of OpenRLHF)",
    containers=("jsonl", "json"),
    recognises=_recognises,
    rollouts=checked(_rollouts),
)
