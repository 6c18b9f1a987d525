"""A model itself, or the one that has a name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kullback.errors import InputError, ModelError
from kullback.models.folders import place_of
from kullback.models.packages import needed
from kullback.models.protocols import Sampler, Scorer
from kullback.models.servers.address import is_address
from kullback.models.servers.model import connect
from kullback.models.servers.readings import check_readings
from kullback.models.shipped import shipped

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel


def opened(model: object, *, device: str, dtype: str, tokenizer_from: Scorer | None = None) -> Any:
    """The model that came, or the one that is loaded by the name that came.

    Args:
        model: a name, a transformers or peft model, or what samples or scores.
        device, dtype: for models that are loaded; objects stay where they are.
        tokenizer_from: the model whose tokenizer is taken where this one has none.

    Raises:
        InputError: nothing of these kinds.
        ModelError: it cannot be loaded, or has no tokenizer and there is none to take.
    """
    found = _found(model, device=device, dtype=dtype)
    if getattr(found, "tokenizer", found) is not None:
        return found
    return _with_tokenizer(found, tokenizer_from)


def opened_pair(policy: object, reference: object, *, device: str, dtype: str) -> tuple[Scorer, Scorer]:
    """Two models; where one has no tokenizer it takes the other's, and its notes say so. Raises as `opened`."""
    q, p = (_found(model, device=device, dtype=dtype) for model in (policy, reference))
    lacking = [getattr(model, "tokenizer", model) is None for model in (q, p)]
    pair = (_with_tokenizer(q, p) if lacking[0] else q), (_with_tokenizer(p, q) if lacking[1] else p)
    check_readings(*pair)
    return pair


def _found(model: object, *, device: str, dtype: str) -> Any:
    if isinstance(model, str | Path):
        return _named(str(model), device=device, dtype=dtype)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from kullback.models.wrapping import wrapped

        return wrapped(model)
    if isinstance(model, Scorer | Sampler):
        return model
    raise InputError(
        f"a {type(model).__name__} came as a model, but a model is a name, a transformers or peft model, or what has "
        "the methods of kullback.models.Scorer"
    )


def _named(name: str, *, device: str, dtype: str) -> Any:
    if is_address(name):
        return connect(name)
    if name.startswith("builtin:"):
        return shipped(name, Path(place_of(name).path), device=device, dtype=dtype)
    for package in ("torch", "transformers"):
        needed(package)
    from kullback.models.loading import loaded

    return loaded(name, device=device, dtype=dtype)


def _with_tokenizer(model: LanguageModel, other: object) -> LanguageModel:
    tokenizer = getattr(other, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(
            f"{model.name} has no tokenizer, and there is none to take from the other model: save one in its folder, "
            "or pass kullback.models.LanguageModel(name, model, tokenizer)"
        )
    note = f"{model.name} has no tokenizer of its own: that of {cast(Scorer, other).name} is used for both"
    return replace(model, tokenizer=tokenizer, notes=(*model.notes, note))
