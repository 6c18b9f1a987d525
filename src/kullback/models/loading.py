"""A causal language model and its tokenizer, loaded by the name a user gives it."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from kullback.errors import ModelError

BUILTIN = Path(__file__).parent / "builtin"
BUILTIN_PROMPTS = BUILTIN / "prompts.txt"


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to sample and score.

    Attributes:
        name: what the user called it.
        model: a transformers causal language model in evaluation mode.
        tokenizer: its transformers tokenizer.
    """

    name: str
    model: Any
    tokenizer: Any

    @property
    def device(self) -> Any:
        """Where its weights are."""
        return self.model.device

    @property
    def dtype(self) -> str:
        """The dtype of its weights, such as ``float32``."""
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def accepts(self) -> frozenset[str]:
        """The arguments that its forward pass takes by name."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @cached_property
    def context(self) -> int:
        """The most tokens it can read, prompt and completion together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 30)

    @cached_property
    def vocab(self) -> int:
        """Logits it returns for a token; some are padding that the tokenizer never produces."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a sequence."""
        ids = getattr(self.model.generation_config, "eos_token_id", None)
        found = list(ids) if isinstance(ids, list | tuple) else [ids]
        found.append(self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(int(token) for token in found if token is not None))

    @cached_property
    def pad_token(self) -> int:
        """A token to fill rows with; what it is does not matter, since it is masked."""
        for token in (self.tokenizer.pad_token_id, *self.end_tokens, 0):
            if token is not None:
                return int(token)
        return 0

    def encode(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Token ids of a prompt: text as it is, or a list of messages through the chat template.

        Raises:
            ModelError: messages for a tokenizer without a chat template.
        """
        if isinstance(prompt, str):
            return [int(token) for token in self.tokenizer(prompt)["input_ids"]]
        if not self.tokenizer.chat_template:
            raise ModelError(f"the tokenizer of {self.name} has no chat template: give prompts as plain text")
        encoded = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        return [int(token) for token in encoded["input_ids"]]

    def decode(self, tokens: list[int], *, special: bool = True) -> str:
        """The text of some tokens, with or without special ones."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=not special))


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


def check_vocabulary(policy: LanguageModel, reference: LanguageModel) -> int:
    """The number of logits that two models share.

    Raises:
        ModelError: their tokenizers differ, so that log-probs of the same text are not of the same tokens.
    """
    first, second = policy.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    if first != second:
        token = next(iter(sorted(set(first.items()) ^ set(second.items()))))[0]
        raise ModelError(
            f"{policy.name} and {reference.name} have different vocabularies ({len(first)} and {len(second)} tokens; "
            f"{token!r} is {first.get(token)} in one and {second.get(token)} in the other): "
            "a KL needs two models over the same tokens"
        )
    shared = min(policy.vocab, reference.vocab)
    if policy.vocab != reference.vocab and shared < max(first.values()) + 1:
        raise ModelError(
            f"{policy.name} returns {policy.vocab} logits and {reference.name} {reference.vocab}, "
            f"but their tokenizer has {max(first.values()) + 1} tokens: one of the checkpoints is cut off"
        )
    return shared


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
