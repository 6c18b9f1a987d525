"""What a name stands for: a checkpoint, an adapter or a GGUF file on this disk, or an id on the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kullback.errors import ModelError
from kullback.models.shipped import BUILTIN
from kullback.paths import path_of

BUILTINS = ("base", "tuned")
"""The models that ship with the package, by what follows ``builtin:``."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "*.tiktoken",
)
"""Files that hold a vocabulary. Without one of them transformers may make up an empty tokenizer."""


@dataclass(frozen=True)
class Place:
    """Where a model is.

    Attributes:
        kind: how it is to be read.
        path: a folder, or an id on the hub.
        file: the GGUF file in that folder.
    """

    kind: Literal["checkpoint", "adapter", "gguf", "hub"]
    path: str
    file: str | None = None

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer can be read there; the hub is believed."""
        if self.kind in ("gguf", "hub"):
            return True
        return any(found for name in TOKENIZER_FILES for found in Path(self.path).glob(name))


def place_of(name: str) -> Place:
    """Where the model with this name is.

    Raises:
        ModelError: no such folder, or one that holds no model, with what it does hold.
    """
    if not name:
        raise ModelError("a model without a name came: name a folder, a Hugging Face id or builtin:base")
    if name.startswith(("http://", "https://")):
        raise ModelError(
            f"{name} is a server, and models are loaded from a folder or the hub: kullback.models.connect(…)"
        )
    if name.startswith("builtin:"):
        if name.removeprefix("builtin:") not in BUILTINS:
            raise ModelError(f"{name} came, but the built-in models are builtin:base and builtin:tuned")
        return Place("checkpoint", str(BUILTIN / name.removeprefix("builtin:")))
    path = path_of(name, "a model").expanduser()
    if path.is_dir():
        return _in_folder(name, path)
    if path.is_file():
        return _file(name, path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf":
        raise ModelError(f"{name} is no folder: name a folder, a .gguf file, a Hugging Face id or builtin:base")
    return Place("hub", name)


def adapter_base(name: str, folder: Path) -> str:
    """The model that an adapter was trained on, by its adapter_config.json.

    Raises:
        ModelError: the file does not say, or names a folder that is not there.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (ValueError, TypeError, KeyError, OSError):
        base = None
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{name} is an adapter whose adapter_config.json does not say of which model: "
            "write that model's folder or id there as base_model_name_or_path"
        )
    for found in (Path(base).expanduser(), folder / base, folder.parent / base):
        if found.is_dir():
            return str(found)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ModelError(
            f"{name} is an adapter of {base}, and there is no such folder here: "
            "write where the model is as base_model_name_or_path in its adapter_config.json"
        )
    return base


def _in_folder(name: str, folder: Path) -> Place:
    weights = any(folder.glob("*.safetensors"))
    if (folder / "config.json").is_file() and any(
        found for found in folder.glob("*.safetensors") if not found.name.startswith("adapter_")
    ):
        return Place("checkpoint", str(folder))
    if (folder / "adapter_config.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            raise ModelError(f"{name} is an adapter without adapter_model.safetensors: save it with save_pretrained(…)")
        return Place("adapter", str(folder))
    files = sorted(found.name for found in folder.glob("*.gguf"))
    if len(files) == 1 and not weights:
        return Place("gguf", str(folder), files[0])
    raise ModelError(_nothing(name, folder, files))


def _nothing(name: str, folder: Path, files: list[str]) -> str:
    """Why a folder holds no model that can be read."""
    latest = _latest_checkpoint(folder)
    if latest is not None:
        return f"{name} is a trainer's folder, not a checkpoint: name one of its checkpoints, the latest is {latest}"
    if files:
        return f"{name} holds {len(files)} GGUF files: name one of them, such as {folder / files[0]}"
    if not (folder / "config.json").is_file():
        return f"{name} has no config.json: name the folder that holds the checkpoint itself"
    return (
        f"{name} holds no weights in *.safetensors: save the model with save_pretrained(…), "
        "pickled weights are not read"
    )


def _latest_checkpoint(folder: Path) -> Path | None:
    steps = {
        int(found[1]): path
        for path in folder.iterdir()
        if path.is_dir() and (found := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    return steps[max(steps)] if steps else None


def _file(name: str, path: Path) -> Place:
    if path.suffix.lower() == ".gguf":
        return Place("gguf", str(path.parent), path.name)
    raise ModelError(f"{name} is a file: name the folder that holds it with its config.json, or a .gguf file")
