"""The group and the step of a rollout whose record did not name them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from kullback.rollouts.record import Rollout


def placed(rollout: Rollout, step: int | None) -> Rollout:
    """With the group and the step that its record did not name."""
    known: dict[str, Any] = {}
    if rollout.prompt_id is None and (group := prompt_of(rollout)) is not None:
        known["prompt_id"] = group
    if rollout.step is None and step is not None:
        known["step"] = step
    return replace(rollout, **known) if known else rollout


def prompt_of(rollout: Rollout) -> str | None:
    """A name for the prompt, from its tokens or its text; rows of one prompt form a cluster. None where not known."""
    if rollout.prompt_tokens is not None and len(rollout.prompt_tokens):
        return name_of(np.asarray(rollout.prompt_tokens, dtype="<i8").tobytes())
    text = rollout.extra.get("prompt")
    return name_of(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) and text else None


def name_of(prompt: bytes) -> str:
    """A name for the tokens of a prompt (little-endian int64s) or its text."""
    return f"prompt {blake2b(prompt, digest_size=6).hexdigest()}"
