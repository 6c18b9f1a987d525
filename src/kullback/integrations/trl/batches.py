"""TRL's dictionaries of tensors, read as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REFERENCE, OLD, REFERENCE_HIDDEN = "kullback_ref_logps", "kullback_old_logps", "kullback_ref_hidden"
"""What is added to a batch where TRL does not keep it; it shuffles and splits such tensors with its own."""


def counted(inputs: Mapping[str, Any]) -> Tensor:
    """Tokens that the policy drew and that count, (batch, time), bool: no padding, and no words of a tool."""
    mask: Tensor = inputs["completion_mask"]
    return mask.bool() if inputs.get("tool_mask") is None else mask.bool() & inputs["tool_mask"].bool()


def reference(inputs: Mapping[str, Any]) -> Tensor:
    """log p of the tokens."""
    found: Tensor = inputs["ref_per_token_logps"] if "ref_per_token_logps" in inputs else inputs[REFERENCE]
    return found


def behavior(inputs: Mapping[str, Any]) -> Tensor | None:
    """log μ of the tokens: the engine's where it told, else those of the policy that generated; None on-policy.

    An engine may leave out tokens, which it marks with nan: there the trainer's own stand in.
    """
    old: Tensor | None = inputs.get("old_per_token_logps", inputs.get(OLD))
    engine: Tensor | None = inputs.get("sampling_per_token_logps")
    if engine is None:
        return old
    return engine if old is None else torch.where(engine.isnan(), old.to(engine.dtype), engine)


def prompts(inputs: Mapping[str, Any]) -> Tensor:
    """A number for the prompt of each row, (batch,), alike on every process."""
    ids, mask = inputs["prompt_ids"].long(), inputs["prompt_mask"].long()
    number = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
    for column, counts in zip(ids.unbind(1), mask.unbind(1), strict=True):
        # Padding, whose width differs between processes, leaves it as it is.
        number = torch.where(counts.bool(), number * 1_000_003 + column + 1, number)
    return number


def baseline_groups(numbers: Tensor) -> list[int] | None:
    """Groups for a leave-one-out baseline: the prompts where each has two rows here, else all rows together.

    TRL shuffles before it splits, so that the rows of a prompt may lie in several batches; rows of other prompts are
    independent of a row as well, and their mean is a baseline, only not as good a one.
    """
    _, at, counts = torch.unique(numbers, return_inverse=True, return_counts=True)
    found: list[int] = at.tolist()
    return found if int(counts.min()) > 1 else None


@dataclass(frozen=True)
class Scored:
    """What one forward pass of TRL's gave.

    Attributes:
        logps: log-probs of the completion's tokens, (batch, time), divided by the sampling temperature.
        hidden: last hidden states at the places that predict them, (batch, time, hidden), where they are wanted.
    """

    logps: Tensor
    hidden: Tensor | None
