"""What a server can say, as it was seen when it was first asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kullback.documents import Record
from kullback.models.servers.dialects import WHOLE, Dialect
from kullback.rollouts.quanta import Rounding

Kind = Literal["whole distributions", "likely words", "log-probs of given tokens", "drawn tokens"]
"""From what gives an exact KL, through what gives a bracket and what gives an estimate, to what cannot score."""

GIVES = {
    "whole distributions": "exact token KLs",
    "likely words": "a bracket of the token KLs, and estimates",
    "log-probs of given tokens": "estimates from drawn tokens",
    "drawn tokens": "no KL by itself: it can draw (sampler=), and another model has to score",
}
"""What a kind is good for."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a server can say of a model.

    Attributes:
        model: as the server calls it.
        dialect: how it is asked; None where no given token can be scored.
        words: likely words a place, `WHOLE` for all.
        chooses: whether it gives log-probs of words that the asker chooses, place by place.
        vocab: tokens of its distributions; None where they are not whole.
        context: the most tokens it reads.
        law: "raw" where its log-probs are the model's own whatever law it draws from, "processed" where they are of
            the law that it draws from, "unknown" where that was not seen.
        draws: whether it says which tokens it drew, by id and with log-probs.
        tokenizer: whether it says how it reads a text.
        ends: end tokens that were seen at the end of what it drew.
        rounding: the grid on which its log-probs lie, if they do.
        reread: nats a token at most between two readings of one text with another between them; None without any.
        redrawn: nats a token at most between the log-probs that tokens were drawn with and are scored with.
        notes: what a reader of its numbers should know.
    """

    model: str
    dialect: Dialect | None
    words: int = 0
    chooses: bool = False
    vocab: int | None = None
    context: int = 1 << 30
    law: Literal["raw", "processed", "unknown"] = "unknown"
    draws: bool = False
    tokenizer: bool = False
    ends: tuple[int, ...] = ()
    rounding: Rounding | None = None
    reread: float | None = None
    redrawn: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """The best that it gives."""
        if self.dialect is None:
            return "drawn tokens"
        if self.words == WHOLE:
            return "whole distributions"
        return "likely words" if self.words > 0 else "log-probs of given tokens"

    @property
    def sentence(self) -> str:
        """For people, in a note below the numbers."""
        words = f" ({self.words} a place)" if self.kind == "likely words" else ""
        words += ", and log-probs of words that are chosen" if self.chooses else ""
        by = "a server" if self.dialect is None else f"a server of {self.dialect.name}"
        return f"{self.model} is behind {by} that gives {self.kind}{words}: {GIVES[self.kind]}"

    @property
    def settings(self) -> Record:
        """For the metadata of what is written."""
        return {
            "dialect": None if self.dialect is None else self.dialect.name,
            "gives": self.kind,
            "words": self.words,
            "chooses": self.chooses,
            "vocab": self.vocab,
            "logprobs": self.law,
            "rounding": None if self.rounding is None else self.rounding.words,
        }
