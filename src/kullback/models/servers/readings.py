"""Whether two models read the same text as the same tokens, where one of them does not show its vocabulary."""

from __future__ import annotations

from contextlib import suppress

from kullback.errors import InputError, KullbackError, ModelError
from kullback.models.protocols import Prompt, Reader

TEXTS = (
    "The small dog ran to the old house, and 12 birds sang.",
    "  two spaces, a tab\tand a line\nthen: 3.14159 × 10^6 = ?",
    "Straße, façade, 東京, Привет, 🙂 and don't — x_1[0]==y;",
)
"""Where tokenizers differ: words, blanks, digits, other scripts and signs."""

CHAT: Prompt = [{"role": "user", "content": "Say one word."}]
"""What templates are held together by."""


def check_readings(first: Reader, second: Reader) -> None:
    """Refuse two models of which one is behind a server, if they read some text or messages as different tokens.

    Raises:
        ModelError: by the first text, or by the messages, that they read differently.
    """
    if not any(hasattr(model, "server") for model in (first, second)) or first.vocabulary == second.vocabulary != {}:
        return
    for text in TEXTS:
        mine, theirs = first.encode(text), second.encode(text)
        if mine != theirs:
            raise ModelError(
                f"{first.name} and {second.name} read {text!r} as different tokens ({mine[:6]}… and {theirs[:6]}…): a "
                "KL needs two models over the same tokens"
            )
    mine, theirs = (_template(model) for model in (first, second))
    if mine and theirs and mine != theirs:
        raise ModelError(
            f"{first.name} and {second.name} read messages as different tokens ({mine[:6]}… and {theirs[:6]}…): their "
            "chat templates differ; start the server with the other's (vLLM: --chat-template FILE, llama.cpp: "
            "--chat-template-file FILE)"
        )


def _template(model: Reader) -> list[int]:
    """Messages as a model reads them; nothing where it has no template."""
    with suppress(KullbackError, InputError):
        return model.encode(CHAT)
    return []
