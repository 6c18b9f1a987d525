"""How many sequences fit a device at a time, and when they did not."""

from __future__ import annotations

import sys

from kullback.models.pairs import gives_distributions
from kullback.models.protocols import Scorer

LOGIT_BYTES = 1 << 29
"""Memory that the two models' logits of one batch may take on the CPU; a quarter of the free memory on CUDA."""

MOST_ROWS = 128
"""Sequences at a time at most."""


def rows_that_fit(model: Scorer, vocab: int | None, length: int) -> int:
    """Sequences of `length` tokens whose float32 logits over `vocab` tokens, of two models, fit the model's device."""
    if not gives_distributions(model):
        return MOST_ROWS
    budget = LOGIT_BYTES
    if model.device.type == "cuda":
        import torch

        budget = torch.cuda.mem_get_info(model.device)[0] // 4
    return int(min(max(budget // (2 * 4 * (vocab or model.vocab) * length), 1), MOST_ROWS))


def out_of_memory(error: BaseException) -> bool:
    """Whether a library says that its device has no memory left."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
