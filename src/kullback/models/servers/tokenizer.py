"""A server's tokenizer: how it reads a text, asked of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kullback.errors import InputError, ModelError
from kullback.models.protocols import Prompt, Tokens
from kullback.models.servers.client import Client, RefusedError
from kullback.rollouts.readers.responses import ids_or_none

TRIED = "The dog said 12."


@dataclass(frozen=True)
class Way:
    """Where a kind of server reads and writes texts, and under which names.

    Attributes:
        encode, text: where a text is read, and what it is called there.
        decode, written: where tokens are written, and what their text is called there.
        more: what else a reading is asked with.
        template: where messages become a text, if not where texts are read.
    """

    encode: str
    text: str
    decode: str
    written: str
    more: Mapping[str, Any]
    template: str = ""


WAYS = (
    Way("/tokenize", "prompt", "/detokenize", "prompt", {"add_special_tokens": True}),
    Way("/tokenize", "content", "/detokenize", "content", {"add_special": True}, "/apply-template"),
    Way("/extras/tokenize", "input", "/extras/detokenize", "text", {}),
)
"""vLLM and SGLang, llama.cpp, llama-cpp-python."""


@dataclass(frozen=True)
class ServerTokenizer:
    """What reads and writes texts as a server does.

    Attributes:
        client: who is asked.
        model: which model's.
        way: how.
    """

    client: Client
    model: str
    way: Way

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, or of messages in the server's own template.

        Raises:
            InputError: the server cannot read it.
        """
        try:
            return tokens_in(self.client.post(self.way.encode, self._body(prompt)))
        except RefusedError as error:
            raise InputError(f"{self.client.address} cannot read this ({error}): {prompt!r:.80}") from None

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        if isinstance(prompt, str):
            return {"model": self.model, self.way.text: prompt, **self.way.more}
        if not self.way.template:
            return {"model": self.model, "messages": prompt, "add_generation_prompt": True}
        text = str(self.client.post(self.way.template, {"messages": prompt}).get("prompt", ""))
        # Of a model whose texts begin with a special token the template comes without it, to be read like any text.
        return {self.way.text: text, **self.way.more, "parse_special": True}

    def decode(self, tokens: Tokens, *, special: bool = True) -> str:
        """The text of some tokens; what is special stays."""
        key = tuple(tokens)
        if key not in self._known:
            answer = self.client.post(self.way.decode, {"model": self.model, "tokens": list(tokens)})
            self._known[key] = str(answer.get(self.way.written, ""))
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[int, ...], str]:
        """Texts that were asked for: reports show the same few tokens again and again."""
        return {}


def tokens_in(answer: Mapping[str, Any]) -> list[int]:
    """The ids of an answer.

    Raises:
        RefusedError: it holds none.
    """
    found = ids_or_none(answer.get("tokens"), "tokens")
    if found is None:
        raise RefusedError("it gave no tokens", 400)
    return found


def tokenizer_of(client: Client, model: str) -> tuple[ServerTokenizer | None, int | None]:
    """The way that a server takes texts, None where it takes none; and its context, where it says."""
    for way in WAYS:
        found = ServerTokenizer(client, model, way)
        try:
            answer = client.post(way.encode, {"model": model, way.text: TRIED, **way.more})
            tokens = tokens_in(answer)
            if len(tokens) > 1 and TRIED.strip() in found.decode(tokens):
                length = answer.get("max_model_len")
                return found, int(length) if isinstance(length, int) and length > 0 else None
        except (RefusedError, InputError):
            continue
        except ModelError:
            # What answers a path that it does not know with something else than a status is no tokenizer.
            continue
    return None, None
