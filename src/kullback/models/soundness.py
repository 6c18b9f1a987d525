"""Whether a loaded model is the one in its files: every weight there, under its name, and a number."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kullback.errors import ModelError

SHOWN = 3
"""Names of weights that a sentence lists."""


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not those of the architecture in its config.

    Args:
        name: what the user called the model.
        info: what `from_pretrained(…, output_loading_info=True)` says.

    Raises:
        ModelError: weights that are missing were drawn at random, and those that are not known were left out.
    """
    faults = {
        "lacks the weights": info.get("missing_keys"),
        "has weights of another shape than its config says in": [
            _first(key) for key in info.get("mismatched_keys", ())
        ],
        "has weights that its architecture does not know,": info.get("unexpected_keys"),
    }
    for what, keys in faults.items():
        if keys:
            raise ModelError(
                f"{name} {what} {listed(keys)}: what would be compared is not what was trained; save it with the "
                "save_pretrained(…) of the model that its config.json names"
            )


def check_finite(name: str, model: Any) -> None:
    """Refuse a model with nan or infinite weights.

    Raises:
        ModelError: by the name of the first.
    """
    import torch

    for key, weight in model.named_parameters():
        # Quantised tensors wrap integers and have no such test of their own; those that lie on a disk are read later.
        if (
            not weight.is_meta
            and type(weight.data) is torch.Tensor
            and weight.is_floating_point()
            and not bool(torch.isfinite(weight).all())
        ):
            raise ModelError(f"{name} has nan or infinite numbers in the weight {key}: no log-prob would be one")


def listed(names: Collection[str]) -> str:
    """The first few names, in order, and how many more there are."""
    shown = ", ".join(sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _first(key: object) -> str:
    return str(key[0] if isinstance(key, tuple | list) else key)
