"""Loading a causal language model and its tokenizer by the name a user gives it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers

from kullback.errors import ModelError
from kullback.models.language_model import LanguageModel
from kullback.models.shipped import BUILTIN


def load(name: str, *, device: str = "auto", dtype: str = "auto") -> LanguageModel:
    """Load a model by Hugging Face id, local folder or ``builtin:base`` / ``builtin:tuned``.

    Only safetensors are read and no code of the model's repository is run.

    Args:
        name: what to load.
        device: "auto" takes cuda, then mps, then the CPU.
        dtype: "auto" takes the checkpoint's dtype on an accelerator and float32 on the CPU.

    Raises:
        ModelError: there is no such model, or it has no safetensors weights.
    """
    if name.startswith(("http://", "https://")):
        raise ModelError(f"{name} is a server, and compare reads models from a folder or the hub: name one of those")
    path = _path(name)
    device = _device(device)
    if dtype != "auto" and not hasattr(torch, dtype):
        raise ModelError(f"dtype={dtype!r} came, but a dtype is float32, bfloat16, float16 or auto")
    wanted = torch.float32 if dtype == "auto" and device == "cpu" else dtype
    hf: Any = transformers
    hf.utils.logging.disable_progress_bar()
    try:
        model = hf.AutoModelForCausalLM.from_pretrained(
            path, dtype=wanted, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = hf.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        return LanguageModel(name, model.eval().to(device), tokenizer)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{name} could not be loaded ({reason.rstrip('.')}): {_advice(name)}") from error


def _path(name: str) -> str:
    if name.startswith("builtin:"):
        folder = BUILTIN / name.removeprefix("builtin:")
        if not folder.is_dir():
            raise ModelError(f"{name} came, but the built-in models are builtin:base and builtin:tuned")
        return str(folder)
    folder = Path(name).expanduser()
    if not folder.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ModelError(f"{name} is no folder: name a folder, a Hugging Face id or builtin:base")
        return name
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json: name the folder that holds the checkpoint itself")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name} holds no weights in *.safetensors: save the model with save_pretrained(…), "
            "pickled weights are not read"
        )
    return str(folder)


def _device(device: str) -> str:
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _advice(name: str) -> str:
    if os.path.isdir(name):
        return "check that the folder holds a causal language model with its tokenizer"
    return "check the name, and that this machine can reach the hub or has the model in its cache"
