"""What several recipes work out of the same rows, each thing once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.block import Block
from kullback.estimation.moments import Keys
from kullback.estimation.sequences import Sequences
from kullback.estimation.summary import GROUP_CELLS, Oddities, WeightPowers, weight_powers
from kullback.estimation.tails import Tail
from kullback.weights import Truncation

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Workings:
    """Float64 rows, and of those with a counted token what does not depend on the estimator.

    Attributes:
        sequences: the rows.
        filled: which of them have a counted token.
        block: these at a level.
    """

    sequences: Sequences
    filled: np.ndarray
    block: Block
    _found: dict[Hashable, object] = field(default_factory=dict)

    @classmethod
    def of(cls, sequences: Sequences, level: str, truncation: Truncation | None) -> Workings:
        """Of rows as recipes of a level and a truncation see them."""
        filled = np.asarray(sequences.mask.any(axis=1))
        return cls(sequences, filled, Block.of(sequences.select(filled), level, truncation))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made, or was made before, under a name."""
        if key not in self._found:
            self._found[key] = make()
        return cast("T", self._found[key])

    def keys(self, finite: np.ndarray) -> Keys:
        """The prompts of filled rows, of which some are left out."""
        groups = self.sequences.groups
        assert groups is not None
        return self.once(("keys", finite.tobytes()), lambda: Keys.of(groups[self.filled][finite].tolist(), GROUP_CELLS))

    @cached_property
    def number(self) -> np.ndarray:
        """Of each filled row among all."""
        return np.flatnonzero(self.filled)

    @cached_property
    def ratios(self) -> Tail:
        """The tail of p/q."""
        return Tail.of(-self.block.log_ratio[self.block.mask])

    @cached_property
    def weights(self) -> Tail:
        """The tail of the importance weights."""
        return Tail.of(self.block.log_weight)

    @cached_property
    def weight_powers(self) -> WeightPowers:
        """Of the importance weights."""
        return weight_powers(self.block.whole)

    @cached_property
    def mismatches(self) -> Oddities:
        """Tokens that the reference excludes."""
        return Oddities.of(np.isneginf(self.sequences.ref_logprobs) & self.sequences.mask)

    @cached_property
    def equal(self) -> bool:
        """Whether every log-ratio is 0."""
        return not self.block.log_ratio.any()

    @cached_property
    def heavy(self) -> Float64:
        """The logs of the importance weights; nan where all are 1."""
        weight = self.block.log_weight
        return weight if weight.any() else np.full(len(weight), np.nan)

    @cached_property
    def unlikely(self) -> Float64:
        """The largest p/q of each filled row, as a log."""
        return np.asarray(-self.block.log_ratio.min(axis=1))
