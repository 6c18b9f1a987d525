"""Where the rows that move an estimate most are, and their text: remembered for a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kullback.documents import Record
from kullback.estimation.extremes import KEPT
from kullback.estimation.rows import Rows
from kullback.jobs.files.columns import SHOWN, Block

SAID = ("prompt_id", "step", "text", "tokens")
"""Columns that say which row it is, and what was written."""

SHOWN_TOKENS = 12
"""Token ids shown of a row that has no text."""


@dataclass(frozen=True)
class Found:
    """A row, for people.

    Attributes:
        file, row: where it is: its file, and its number in it, from 0.
        prompt: the name of its prompt, "" where not known.
        step: the training step, None where not known.
        text: what was written, or the first token ids.
    """

    file: str
    row: int
    prompt: str
    step: int | None
    text: str

    @classmethod
    def of(cls, place: Place, said: Mapping[str, Any]) -> Found:
        """Of a row that was read again; `said` has the columns `SAID`."""
        prompt, step, text, tokens = (said[name] for name in SAID)
        return cls(place.file, place.row, _name(prompt), step, _text(text, tokens))

    @classmethod
    def at(cls, block: Block, place: int, row: int) -> Found:
        """Of a row of a block, by its place in it and its number in the file."""
        prompt, step, text, tokens = (
            block.columns.rows[name][place] if name in block.columns.rows else None for name in SAID
        )
        return cls(block.file, row, _name(prompt), step, _text(text, tokens))

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        return {"file": self.file, "file_row": self.row, "prompt": self.prompt, "step": self.step, "text": self.text}


def _name(prompt: int | str | None) -> str:
    return "" if prompt is None else str(prompt)


def _text(text: str | None, tokens: Sequence[int] | None) -> str:
    if text:
        return text
    if tokens is None:
        return ""
    more = " …" if len(tokens) > SHOWN_TOKENS else ""
    return f"token ids {' '.join(map(str, tokens[:SHOWN_TOKENS]))}{more}"


@dataclass(frozen=True)
class Place:
    """Where a row is: its file, and its number in it; and what it says, where that was at hand."""

    file: str
    row: int
    said: Found | None = None

    @classmethod
    def of(cls, block: Block, place: int, row: int) -> Place:
        """Of a row of a block."""
        at_hand = any(name in block.columns.rows for name in SHOWN)
        return cls(block.file, row, Found.at(block, place, row) if at_hand else None)


@dataclass
class Places:
    """The places of the rows with the largest and the smallest summands."""

    known: dict[int, tuple[float, Place]] = field(default_factory=dict)

    def keep(self, rows: Rows, place_of: Callable[[int], Place]) -> None:
        """Look at more rows, each of which is somewhere by its number."""
        for at in _ends(rows.summand):
            number = int(rows.number[at])
            self.known[number] = (float(rows.summand[at]), place_of(number))
        if len(self.known) > 2 * KEPT:
            numbers = np.array([*self.known])
            sizes = np.array([self.known[number][0] for number in numbers.tolist()])
            self.known = {number: self.known[number] for number in numbers[_ends(sizes)].tolist()}

    def of(self, number: int) -> Place | None:
        """Where a row is, by its number."""
        return self.known[number][1] if number in self.known else None


def _ends(sizes: np.ndarray) -> list[int]:
    """Which of them are among the largest or the smallest."""
    order = np.argsort(-sizes, kind="stable")
    return list(dict.fromkeys([*order[:KEPT].tolist(), *order[-KEPT:].tolist()]))
