"""How many sequences fit a device at a time, and when they did not."""

from __future__ import annotations

import sys
from typing import Any

from kullback.models.pairs import gives_distributions
from kullback.models.protocols import Scorer

LOGIT_BYTES = 1 << 29
"""Memory that the two models' logits of one batch may take on the CPU; a quarter of the free memory on CUDA."""

MOST_ROWS = 128
"""Sequences at a time at most."""


WORKED = 32
"""Bytes a word that the law of one token takes while it is drawn from: float32 twice, and three times float64."""


def rows_that_fit(model: Scorer, vocab: int | None, length: int, other: Scorer | None = None) -> int:
    """Sequences of `length` tokens whose float32 logits over `vocab` tokens, of two models, fit the model's device.

    Where the other model is named and both show the states that their heads read, no more than one token's logits are
    made at once, and it is keys, values and states that have to fit. That is 4 rows or 60 of Qwen2.5-0.5B.
    """
    if not gives_distributions(model):
        return MOST_ROWS
    budget = LOGIT_BYTES
    if model.device.type == "cuda":
        import torch

        budget = torch.cuda.mem_get_info(model.device)[0] // 4
    row = 2 * 4 * (vocab or model.vocab) * length
    if other is not None and all(getattr(one, "reads_head", False) for one in (model, other)):
        row = min(row, WORKED * model.vocab + max(_kept_bytes(one, length) or row for one in (model, other)))
    return int(min(max(budget // row, 1), MOST_ROWS))


def _kept_bytes(model: Any, length: int) -> int | None:
    """What one row's keys and values, twice while they are copied, and states take; None where the config says less."""
    config = getattr(model.model, "config", None)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = [getattr(config, name, None) for name in names]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    hidden, layers, heads = (int(size) for size in sizes if size is not None)
    shared = getattr(config, "num_key_value_heads", None) or heads
    return length * 4 * hidden * (2 * 2 * layers * shared // heads + 2)


def out_of_memory(error: BaseException) -> bool:
    """Whether a library says that its device has no memory left."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
