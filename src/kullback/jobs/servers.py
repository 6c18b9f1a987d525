"""What a server can say and how far it can be believed: ``kullback doctor --server``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kullback.documents import Document, Note, Record, Table
from kullback.models.servers.capabilities import GIVES, Capabilities
from kullback.models.servers.dialects import WHOLE
from kullback.models.servers.model import connect


@dataclass(frozen=True)
class ServerDiagnosis:
    """What was found.

    Attributes:
        name: the server, as the user called it.
        found: what it can do.
    """

    name: str
    found: Capabilities

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        found = self.found
        return {
            "server": self.name,
            "model": found.model,
            **found.settings,
            "good_for": GIVES[found.kind],
            "context": found.context if found.context < 1 << 30 else None,
            "draws": found.draws,
            "tokenizer": found.tokenizer,
            "end_tokens": list(found.ends),
            "reread_nats": found.reread,
            "redrawn_nats": found.redrawn,
            "notes": list(found.notes),
        }

    def document(self) -> Document:
        """What stands on the screen."""
        table = Table(
            title=f"{self.found.model} behind {self.name}", note="", columns=("", "is"), rows=tuple(self._rows())
        )
        return Document("kullback doctor", (table, *(Note(one, tone="warning") for one in self.found.notes)))

    def _rows(self) -> Iterator[tuple[str, str]]:
        found = self.found
        yield "gives", found.kind
        yield "good for", GIVES[found.kind]
        yield "asked as", "a server that cannot score" if found.dialect is None else found.dialect.name
        words = "all" if found.words == WHOLE else str(found.words) if found.words else "none"
        yield "likely words a place", words if found.vocab is None else f"{words} {found.vocab:,}"
        yield "chosen words", "their log-probs too" if found.chooses else "not asked for"
        yield "context", f"{found.context:,} tokens" if found.context < 1 << 30 else "not said"
        yield "log-probs of what it draws", LAWS[found.law]
        yield "draws", "with ids and log-probs" if found.draws else "not as a KL needs it"
        yield "end tokens", ", ".join(map(str, found.ends)) or "none seen"
        yield "tokenizer", "its own" if found.tokenizer else "not said: that of the other model of a pair is taken"
        yield "rounding", "none seen" if found.rounding is None else found.rounding.words
        yield "one text, read twice", _nats(found.reread)
        yield "drawn, then scored", _nats(found.redrawn)


LAWS = {
    "raw": "the model's own (raw), whatever temperature it draws at",
    "processed": "those of the law that it draws from (processed)",
    "unknown": "of a law that was not seen",
}


def diagnosed_server(name: str) -> ServerDiagnosis:
    """Ask a server what it can do.

    Raises:
        ModelError: it cannot be reached, or its numbers would be wrong.
    """
    return ServerDiagnosis(name, connect(name).capabilities)


def _nats(apart: float | None) -> str:
    return "not tried" if apart is None else f"at most {apart:.2g} nats a token apart"
