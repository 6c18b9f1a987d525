"""What of a document fits a model card or a pull request: the answer, its table, its doubts, how to redo it."""

from __future__ import annotations

from kullback.documents import Block, Code, Document, Fold, Heading, Item, Note, Table, Verdict

MOST_NOTES = 6


def card(document: Document, made: tuple[Block, ...] = ()) -> Document:
    """A document's verdicts and findings, its first table, its first warnings, and behind a fold how it was made."""
    said = [block for block in document.blocks if isinstance(block, Verdict | Item)]
    tables = [block for block in document.blocks if isinstance(block, Table)][:1]
    doubts = [block for block in document.blocks if isinstance(block, Note) and block.tone in ("warning", "bad")]
    fold: list[Block] = [Note(document.subtitle, tone="quiet")] if document.subtitle else []
    fold += made
    blocks: tuple[Block, ...] = (
        *([Heading(document.title, level=3)] if document.title else []),
        *said,
        *tables,
        *doubts[:MOST_NOTES],
        *([Fold("How this was measured", tuple(fold))] if fold else []),
    )
    return Document(title="", blocks=blocks)


def command_of(line: str) -> Code:
    """A command line to copy."""
    return Code(line, "sh")
