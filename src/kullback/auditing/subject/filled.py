"""Arrays that a setting names by a word: ``--set advantages=zeros``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kullback.arrays import Array, namespace

Word = Literal["zeros", "ones", "signs"]
Shape = Literal["row", "token", "column"]
WORDS: tuple[Word, ...] = ("zeros", "ones", "signs")
SHAPES: tuple[Shape, ...] = ("row", "token", "column")
"""One number a row, (batch,); one a token, (batch, time); or (batch, 1): tried in this order."""


@dataclass(frozen=True)
class Filled:
    """An array of zeros, of ones, or of signs in turn, in the shape that the function works with."""

    word: Word
    shape: Shape = "row"

    def of(self, logprobs: Array) -> Array:
        """The array for a batch whose log-probs these are, of the same library."""
        xp: Any = namespace(logprobs)
        token: Any = xp.zeros_like(logprobs) if self.word == "zeros" else xp.ones_like(logprobs)
        if self.word == "signs":
            token = 2.0 * (xp.cumsum(token, 0) % 2) - 1.0
        row = token[:, 0]
        made: dict[Shape, Array] = {"row": row, "token": token, "column": row[:, None]}
        return made[self.shape]

    def __str__(self) -> str:
        return self.word


def filled(value: object) -> object:
    """A setting's value, or the array that a word in its place stands for."""
    found = next((word for word in WORDS if isinstance(value, str) and value == word), None)
    return value if found is None else Filled(found)
