"""Where the rows that move an estimate most are, and their text: remembered for a few of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kullback.documents import Record
from kullback.estimation.extremes import KEPT
from kullback.estimation.rows import Rows
from kullback.rollouts import Rollout

SHOWN_TOKENS = 12
"""Token ids shown of a row that has no text."""


@dataclass(frozen=True)
class Place:
    """Where a row is: its file, and its number in it."""

    file: str
    row: int


@dataclass(frozen=True)
class Found:
    """A row, for people.

    Attributes:
        place: where it is.
        prompt: the name of its prompt, "" where not known.
        step: the training step, None where not known.
        text: what was written, or the first token ids.
    """

    place: Place
    prompt: str
    step: int | None
    text: str

    @classmethod
    def of(cls, place: Place, row: Rollout) -> Found:
        """Of a row."""
        prompt = "" if row.prompt_id is None else str(row.prompt_id)
        return cls(place, prompt, row.step, _text(row))

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        return {
            "file": self.place.file,
            "file_row": self.place.row,
            "prompt": self.prompt,
            "step": self.step,
            "text": self.text,
        }


def _text(row: Rollout) -> str:
    if row.text:
        return row.text
    if row.tokens is None:
        return ""
    more = " …" if len(row.tokens) > SHOWN_TOKENS else ""
    return f"token ids {' '.join(map(str, row.tokens[:SHOWN_TOKENS]))}{more}"


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
