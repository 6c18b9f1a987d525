"""How a GGUF file says that text is split into words before it is split into tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kullback.models.folders import Place

AS_GPT2 = frozenset({"", "default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion"})
"""Names of the split that transformers makes of every name it does not know."""

DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})
"""Names of GPT-2's split with every digit apart: llama.cpp's rule. Without it SmolLM2 reads "\\n\\n   1" otherwise."""

WORDS_FIRST = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "glm4", "glm5", "tekken"})
"""Names under which a word of the vocabulary is one token though no merges lead to it. " Việt" of Llama 3 is one."""

KEY = (18).to_bytes(8, "little") + b"tokenizer.ggml.pre" + (8).to_bytes(4, "little")
"""An entry of the header as GGUF writes it: the key's length, the key, the number of the kind string."""

HEADER = 1 << 26
"""Bytes in which the words of a tokenizer lie, of the largest vocabularies too."""


def split_as_said(tokenizer: Any, place: Place) -> Any:
    """The tokenizer of a GGUF file, with what its name of a split says and transformers did not do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if place.kind != "gguf" or backend is None:
        return tokenizer
    name = split_named(place)
    if name in DIGITS_APART and _plain(tokenizer):
        from tokenizers.pre_tokenizers import Digits, Sequence

        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    if name in WORDS_FIRST and hasattr(backend.model, "ignore_merges"):  # byte-pair merges alone have it
        backend.model.ignore_merges = True
    return tokenizer


def unknown_split(tokenizer: Any, place: Place) -> str | None:
    """The name of a split that neither transformers nor this module knows, so that GPT-2's is in its place."""
    if not _plain(tokenizer):
        return None
    name = split_named(place)
    return None if name in AS_GPT2 else name


def split_named(place: Place) -> str:
    """What the file calls its split; "" where it is silent.

    gguf's own reader makes an object of every word and takes as long as the model does: 13 s for 49,000 words.
    """
    with (Path(place.path) / str(place.file)).open("rb") as file:
        header = file.read(HEADER)
    _, found, rest = header.partition(KEY)
    length = int.from_bytes(rest[:8], "little")
    return rest[8 : 8 + length].decode(errors="replace") if found else ""


def _plain(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = json.loads(backend.to_str())["pre_tokenizer"] if backend is not None else None
    return made is not None and made["type"] == "ByteLevel" and bool(made["use_regex"])
