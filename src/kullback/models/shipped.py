"""The pair of models and the prompts that ship with the package."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.models.packages import needed

if TYPE_CHECKING:
    from kullback.models.language_model import LanguageModel

BUILTIN = Path(__file__).parent / "builtin"
BUILTIN_PROMPTS = BUILTIN / "prompts.txt"


def shipped(name: str, folder: Path, *, device: str, dtype: str) -> LanguageModel:
    """One of the pair, without transformers: half of the seconds of a first comparison were its import.

    Its log-probs are those of `load` up to the rounding of float32.

    Raises:
        ModelError: the device or the dtype is none that works.
        MissingPackageError: torch, safetensors or tokenizers is not installed.
    """
    torch, files = needed("torch"), needed("safetensors") and needed("safetensors.torch")
    needed("tokenizers")
    from kullback.models.failures import one_sentence, tried
    from kullback.models.language_model import LanguageModel
    from kullback.models.llama import Llama
    from kullback.models.places import SPLIT, device_named, dtype_named

    where = device_named("auto" if device == SPLIT else device)
    wanted = dtype_named(dtype, where)
    with one_sentence(name, "could not be loaded", "try another device or dtype, or install the package anew"):
        weights = files.load_file(folder / "model.safetensors")
        cast = torch.float32 if wanted == "auto" else wanted
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = Llama(config, {key: weight.to(where, cast) for key, weight in weights.items()}).eval()
    return tried(LanguageModel(name, model, ShippedTokenizer(folder)))


class ShippedTokenizer:
    """The pair's tokenizer, with as much of transformers' interface as is used here."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._folder = folder
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.chat_template: str = said["chat_template"]
        self.eos_token_id, self.pad_token_id = (
            self._tokens.token_to_id(said[f"{name}_token"]) for name in ("eos", "pad")
        )

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        """Token ids, the first of them that of the beginning."""
        return {"input_ids": self._tokens.encode(text).ids}

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        """The text of some tokens."""
        return str(self._tokens.decode(tokens, skip_special_tokens=skip_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Token ids by token."""
        return dict(self._tokens.get_vocab())

    def apply_chat_template(self, messages: object, **options: Any) -> Any:
        """Messages as transformers reads them, which is loaded for them alone."""
        return self._whole.apply_chat_template(messages, **options)

    @cached_property
    def _whole(self) -> Any:
        return needed("transformers").AutoTokenizer.from_pretrained(self._folder)
