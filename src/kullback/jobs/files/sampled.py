"""Some rows of a dump, evenly spread over it, kept to be shown token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kullback.jobs.files.parts import Part
from kullback.jobs.shown import MOST_SEQUENCES, MOST_TOKENS
from kullback.rollouts import LOGPROB_COLUMNS

TOKEN_COLUMNS = (*LOGPROB_COLUMNS, "token_kl", "mask")

LONGEST = 4_000
"""Tokens of a row that are kept: its beginning."""


@dataclass(frozen=True)
class Kept:
    """A row as a page shows it.

    Attributes:
        number: among all rows that count.
        file, row: where it is.
        prompt: its prompt's name, None where not known.
        step: the training step, None where not known.
        text: what was written, "" where not at hand.
        tokens: its token ids, None where not at hand.
        columns: numbers of its tokens by name.
    """

    number: int
    file: str
    row: int
    prompt: str | None
    step: int | None
    text: str
    tokens: tuple[int, ...] | None
    columns: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, part: Part, place: int) -> Kept:
        """The row of a part at a place in it."""
        columns, block = part.block.columns, part.block
        start, stop = columns.offsets[place : place + 2].tolist()
        stop = min(stop, start + LONGEST)

        def said(name: str) -> object:
            return columns.rows[name][place] if name in columns.rows else None

        prompt, step, text, tokens = (said(name) for name in ("prompt_id", "step", "text", "tokens"))
        return cls(
            number=int(part.number[place]),
            file=block.file,
            row=int(part.place[place]),
            prompt=None if prompt is None else str(prompt),
            step=step if isinstance(step, int) else None,
            text=str(text or ""),
            tokens=tuple(tokens[: stop - start]) if isinstance(tokens, list | tuple) else None,
            columns={
                name: np.array(columns.tokens[name][start:stop]) for name in TOKEN_COLUMNS if name in columns.tokens
            },
        )

    @property
    def length(self) -> int:
        """Tokens that are kept."""
        return next(len(column) for column in self.columns.values())

    def told(self, said: Mapping[str, Any]) -> Kept:
        """With its text and its token ids."""
        tokens = said.get("tokens")
        ids = None if tokens is None else tuple(int(token) for token in tokens[: self.length])
        return replace(self, text=str(said.get("text") or self.text), tokens=ids)


@dataclass
class Sampled:
    """Every so-manieth row, and of those every second one once there are too many: as even at the end as if their
    number had been known.
    """

    stride: int = 1
    rows: dict[int, Kept] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        """Look at more rows."""
        for place in np.flatnonzero(part.number % self.stride == 0).tolist():
            number = int(part.number[place])
            if number % self.stride == 0:
                self.rows[number] = Kept.of(part, place)
            if len(self.rows) > 2 * MOST_SEQUENCES:
                self.stride *= 2
                self.rows = {number: row for number, row in self.rows.items() if number % self.stride == 0}

    @property
    def shown(self) -> tuple[Kept, ...]:
        """As many as a page has room for, evenly spread."""
        rows = [row for _, row in sorted(self.rows.items())]
        room = min(MOST_SEQUENCES, len(rows))
        while room > 1:
            chosen = [rows[at] for at in np.linspace(0, len(rows) - 1, room).round().astype(int).tolist()]
            tokens = sum(row.length for row in chosen)
            if tokens <= MOST_TOKENS:
                return tuple(chosen)
            room = min(room - 1, int(room * MOST_TOKENS / tokens))
        return tuple(rows[:1])
