"""Models as they are known where their weights are not: what a plan, a table and a report ask of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

ASKED = ("context", "vocab", "end_tokens", "mixes_lengths", "reads_head")
"""What only the weights can say of a language model; its tokenizer says the rest."""


@dataclass(frozen=True)
class Elsewhere:
    """In the place of weights that a worker has: where they would be, and as what."""

    device: Any
    dtype: Any


def without_weights(model: Any) -> Any:
    """A language model that knows all of itself but its weights, fit for another process; others as they are."""
    if "kullback.models.language_model" not in sys.modules:
        return model
    from kullback.models.language_model import LanguageModel

    if not isinstance(model, LanguageModel):
        return model
    found = replace(model, model=Elsewhere(model.model.device, model.model.dtype))
    vars(found).update({name: getattr(model, name) for name in ASKED})
    return found
