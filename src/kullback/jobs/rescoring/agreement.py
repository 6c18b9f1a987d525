"""A file's own column against the model's score of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

from kullback.documents import Record

APART = 0.2
"""Nats a token, on average, from which two scores are taken for two laws or models; bfloat16 rounds by about 0.02."""


@dataclass(frozen=True)
class Agreement:
    """How far log-probs that a file holds are from those that a model gives to the same tokens, over those that count.

    Attributes:
        column: the file's.
        model: whose score.
        tokens: that count.
        total, signed: of |model − file| and of model − file, nats.
        largest: at one token.
    """

    column: str
    model: str
    tokens: int = 0
    total: float = 0.0
    signed: float = 0.0
    largest: float = 0.0

    @property
    def mean(self) -> float:
        """Mean absolute difference, nats a token."""
        return self.total / self.tokens if self.tokens else nan

    @property
    def bias(self) -> float:
        """Mean of model − file, nats a token."""
        return self.signed / self.tokens if self.tokens else nan

    def plus(self, held: np.ndarray, scored: np.ndarray, counted: np.ndarray) -> Agreement:
        """With the tokens of a row."""
        with np.errstate(invalid="ignore"):  # −inf in both agrees
            apart = np.where(held == scored, 0.0, scored - held)[counted]
        apart = apart[~np.isnan(apart)]
        if not len(apart):
            return self
        return Agreement(
            column=self.column,
            model=self.model,
            tokens=self.tokens + len(apart),
            total=self.total + float(np.abs(apart).sum()),
            signed=self.signed + float(apart.sum()),
            largest=max(self.largest, float(np.abs(apart).max())),
        )

    @property
    def note(self) -> str | None:
        """What is to be said where the two are not of one model and law."""
        if not self.mean > APART:
            return None
        return (
            f"the file's {self.column} are {self.mean:.2g} nats a token from those of {self.model}: they are of "
            "another model, of other weights, or of another law (a temperature)"
        )

    def to_dict(self) -> Record:
        """The record that ``--json`` prints."""
        return {
            "column": self.column,
            "model": self.model,
            "tokens": self.tokens,
            "mean_absolute_difference": self.mean,
            "mean_difference": self.bias,
            "largest_difference": self.largest,
        }
