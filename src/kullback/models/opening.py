"""A model itself, or the one that has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel

M = TypeVar("M")


def opened(model: str | M, *, device: str, dtype: str) -> M | LanguageModel:
    """The model that came, or the one that is loaded by the name that came."""
    if not isinstance(model, str):
        return model
    from kullback.models import load

    return load(model, device=device, dtype=dtype)
