"""What a statement is: a sentence of a document, numbered, with the claims that decide it or why none does."""

from __future__ import annotations

from dataclasses import dataclass

from kullback.claims.record import Source


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A checkable sentence of a document.

    Attributes:
        number: a letter for the document and its place in it; versions of one article share their numbers.
        says: what it says, in a few words of ours.
        quotes: a piece of each document that makes it, as printed there; "…" stands for what is left out.
        claims: ids of the claims that decide it, the one that does so most directly first.
        reason: why no claim does.
    """

    number: str
    says: str
    quotes: tuple[tuple[Source, str], ...]
    claims: tuple[str, ...]
    reason: str = ""

    @property
    def name(self) -> str:
        """Its number, by which a family finds it."""
        return self.number

    @property
    def documents(self) -> tuple[str, ...]:
        """Keys of the documents that make it."""
        return tuple(source.key for source, _ in self.quotes)

    def quote(self, document: str) -> str:
        """How a document puts it; nothing if it does not."""
        return next((text for source, text in self.quotes if source.key == document), "")
