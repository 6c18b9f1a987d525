"""Arrays that a setting names by a word: ``--set advantages=zeros``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        xp = namespace(logprobs)
        token = xp.zeros_like(logprobs) if self.word == "zeros" else xp.ones_like(logprobs)
        if self.word == "signs":
            token = token * xp.cumprod(-token, 0) * -1.0
        row = token[:, 0]
        return {"row": row, "token": token, "column": row[:, None]}[self.shape]

    def __str__(self) -> str:
        return self.word


def filled(value: object) -> object:
    """A setting's value, or the array that a word in its place stands for."""
    found = next((word for word in WORDS if isinstance(value, str) and value == word), None)
    return value if found is None else Filled(found)
