"""A transformers or peft model that is in memory already, as what samples and what scores."""

from __future__ import annotations

import sys
from typing import Any

import torch

from kullback.errors import ModelError
from kullback.models.failures import tried
from kullback.models.folders import place_of
from kullback.models.language_model import LanguageModel
from kullback.models.loading import quantised_notes, tokenizer_of
from kullback.models.soundness import check_finite


def wrapped(module: torch.nn.Module) -> LanguageModel:
    """A model object with the tokenizer of the folder it came from, None where that has none.

    The object stays on its device and in its dtype, and in training mode if it is: it is switched to evaluation only
    while it computes.

    Raises:
        ModelError: no causal language model, or the base of a peft model whose adapter is active in it.
    """
    model: Any = _unwrapped(module)
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "generate"):
        raise ModelError(
            f"a {type(module).__name__} came, but a model is a name, a transformers or peft causal language model, or "
            "what has the methods of kullback.models.Scorer"
        )
    _check_base(model)
    origin = str(getattr(config, "_name_or_path", "") or "")
    name = f"{type(model).__name__} ({origin})" if origin else type(model).__name__
    check_finite(name, model)
    return tried(LanguageModel(name, model, _tokenizer(origin), notes=tuple(quantised_notes(name, model))))


def _unwrapped(module: Any) -> Any:
    """The model in a compiled or data-parallel one."""
    while not isinstance(module, torch.nn.Module) or "config" not in dir(module):
        inner = getattr(module, "module", None)
        if inner is None:
            break
        module = inner
    return getattr(module, "_orig_mod", module)


def _check_base(model: Any) -> None:
    """Refuse what get_peft_model was given: the adapter's layers are in it, and its law is the adapted one."""
    peft = sys.modules.get("peft")
    if peft is None or isinstance(model, peft.PeftModel) or getattr(model, "_hf_peft_config_loaded", False):
        return
    tuner = sys.modules["peft.tuners.tuners_utils"].BaseTunerLayer
    if any(isinstance(layer, tuner) for layer in model.modules()):
        raise ModelError(
            f"a {type(model).__name__} came that is the base of a peft model, and the adapter is active in it too, so "
            "that a comparison of the two would find nothing: name the base model, or load it a second time"
        )


def _tokenizer(origin: str) -> Any:
    """The tokenizer of a folder on this disk; the hub is not asked for a model that is here."""
    try:
        place = place_of(origin)
        return None if place.kind in ("hub", "adapter") else tokenizer_of(origin, place)
    except ModelError:
        return None
