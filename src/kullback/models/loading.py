"""Loading a causal language model and its tokenizer by the name a user gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from kullback.errors import ModelError
from kullback.models.failures import one_sentence, tried
from kullback.models.folders import Place, adapter_base, place_of
from kullback.models.language_model import LanguageModel
from kullback.models.packages import needed
from kullback.models.places import SPLIT, device_named, dtype_named
from kullback.models.soundness import check_finite, check_loaded, listed
from kullback.models.splits import split_as_said, unknown_split

HF: Any = transformers


def load(
    name: str, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto", tokenizer: Any = None
) -> LanguageModel:
    """Load a model by Hugging Face id, folder, adapter folder, GGUF file or ``builtin:base`` / ``builtin:tuned``.

    Only safetensors and GGUF are read and no code of the model's repository is run. A checkpoint whose weights are not
    all there, or not all known to its architecture, is refused.

    Args:
        name: what to load. A folder with adapter_config.json is loaded on the model that it names, with peft; a GGUF
            file is dequantised by transformers.
        device: "auto" takes cuda, then mps, then the CPU; "split" shares the layers of a model that is too big for one
            device out among all of them, as accelerate does.
        dtype: "auto" takes the checkpoint's dtype on an accelerator and float32 on the CPU.
        tokenizer: a transformers tokenizer, or the name of a model that has one; None for the model's own.

    Raises:
        ModelError: there is no such model, its files are not whole, or it has no tokenizer.
        MissingPackageError: peft, gguf or what its quantisation needs is not installed.

    Example:
        >>> from kullback.models import load
        >>> load("builtin:base", dtype="bfloat16").dtype
        'bfloat16'
    """
    if isinstance(tokenizer, str):
        tokenizer = tokenizer_of(tokenizer, place_of(tokenizer))
    model = loaded(name, device=device, dtype=dtype, tokenizer=tokenizer)
    if model.tokenizer is None:
        raise ModelError(
            f"{name} has no tokenizer: save its tokenizer in the folder, or load it with tokenizer= and the name of a "
            "model that has the same one"
        )
    return model


def loaded(name: str, *, device: object, dtype: object, tokenizer: Any = None) -> LanguageModel:
    """As `load`; the tokenizer is None where the model has none."""
    place = place_of(name)
    where = device_named(device)
    wanted = dtype_named(dtype, where)
    if place.kind == "adapter":
        return _adapted(name, place, where, wanted, tokenizer)
    with _reading(name, place):
        model = _weights(name, place, where, wanted)
    check_finite(name, model)
    own = tokenizer or tokenizer_of(name, place)
    return tried(LanguageModel(name, model, own, notes=tuple(_notes(name, place, model, own))))


def tokenizer_of(name: str, place: Place) -> Any:
    """The tokenizer that is with a model, or None.

    Raises:
        ModelError: there is one, and it cannot be read.
    """
    if not place.has_tokenizer:
        return None
    options = {} if place.file is None else {"gguf_file": place.file}
    with _reading(f"the tokenizer of {name}", place):
        return split_as_said(HF.AutoTokenizer.from_pretrained(place.path, trust_remote_code=False, **options), place)


def _weights(name: str, place: Place, device: str, dtype: torch.dtype | str) -> Any:
    options: dict[str, Any] = {"use_safetensors": True}
    if place.kind == "gguf":
        needed("gguf", "gguf")
        options = {"gguf_file": place.file}
    quantised = place.kind != "gguf" and _quantisation(place) is not None
    if quantised:
        needed("accelerate", "quantised")
        options["device_map"] = {"": device}  # quantised weights are packed for the device they are loaded on
    if device == SPLIT:
        needed("accelerate", "quantised")
        options["device_map"] = "auto"
    model, info = HF.AutoModelForCausalLM.from_pretrained(
        place.path,
        dtype=dtype,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # else transformers raises without naming them; they are refused here
        **options,
    )
    check_loaded(name, info)
    return model.eval() if quantised or device == SPLIT else model.eval().to(device)


def _adapted(name: str, place: Place, device: str, dtype: torch.dtype | str, tokenizer: Any) -> LanguageModel:
    peft = needed("peft", "peft")
    base = adapter_base(name, Path(place.path))
    below = loaded(base, device=device, dtype=dtype, tokenizer=tokenizer)
    with _reading(name, place):
        model = peft.PeftModel.from_pretrained(below.model, place.path, torch_device=str(below.device)).eval()
        if model.active_peft_config.is_prompt_learning:
            raise ModelError(
                f"{name} is an adapter of virtual prompt tokens ({model.peft_type}), which have no log-probs of their "
                "own: compare adapters of weights, such as LoRA"
            )
        _check_adapter(name, place, set(peft.get_peft_model_state_dict(model)))
    check_finite(name, model)
    own = tokenizer or tokenizer_of(name, place) or below.tokenizer
    notes = (*below.notes, f"{name} is an adapter of {base}")
    return tried(replace(below, name=name, model=model, tokenizer=own, notes=notes))


def _check_adapter(name: str, place: Place, wanted: set[str]) -> None:
    """Refuse an adapter file that lacks weights or has others; peft only warns, and leaves them as they were drawn."""
    from safetensors import safe_open

    with safe_open(Path(place.path) / "adapter_model.safetensors", "pt") as file:
        found = set(file.keys())
    for what, keys in {
        "lacks the weights": wanted - found,
        "has weights that it cannot place,": found - wanted,
    }.items():
        if keys:
            raise ModelError(
                f"{name} is an adapter that {what} {listed(keys)}: it was trained on another model, or saved in part"
            )


def _notes(name: str, place: Place, model: Any, tokenizer: Any) -> Iterator[str]:
    if place.kind == "gguf":
        yield f"{name} is GGUF: transformers turned its weights into {str(model.dtype).removeprefix('torch.')}"
        split = unknown_split(tokenizer, place)
        if split is not None:
            yield f"{name} splits text as {split!r}, which is not known here: it is split as GPT-2 does"
    else:
        asked = None if place.kind == "hub" else _quantisation(place)
        if asked is not None and quantised_with(model) is None:
            yield f"the config of {name} speaks of {asked}, and its weights were loaded without it"
        yield from quantised_notes(name, model)


def quantised_notes(name: str, model: Any) -> Iterator[str]:
    """With what a model is quantised, if it is."""
    method = quantised_with(model)
    if method is not None:
        yield f"{name} is quantised ({method})"


def quantised_with(model: Any) -> str | None:
    """The method by which a model's weights are quantised."""
    config = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    method = getattr(config, "quant_method", None)
    return None if method is None else str(getattr(method, "value", method))


def _quantisation(place: Place) -> str | None:
    """How a checkpoint is quantised, by its config.json."""
    if place.kind == "hub":
        config = HF.AutoConfig.from_pretrained(place.path, trust_remote_code=False).to_dict()
    else:
        config = json.loads((Path(place.path) / "config.json").read_text(encoding="utf-8"))
    found = config.get("quantization_config") or {}
    return found.get("quant_method") if isinstance(found, dict) else None


def _reading(name: str, place: Place) -> AbstractContextManager[None]:
    return one_sentence(name, "could not be loaded", _advice(place))


def _advice(place: Place) -> str:
    if place.kind == "hub":
        return "check the name, and that this machine can reach the hub or has the model in its cache"
    return "check that its files are whole, and that they are a causal language model's with its tokenizer"
