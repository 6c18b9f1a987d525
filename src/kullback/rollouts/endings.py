"""How sequences end: what an estimate of the sequence's KL leaves out where the token that ended one is not counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np

from kullback.rollouts.columns import Columns
from kullback.rollouts.record import Rollout


@dataclass(frozen=True)
class Endings:
    """Counts of sequences.

    Attributes:
        ended: came to their end, and the token that ended them is counted.
        missing: came to their end, and that token has no log-prob or is masked.
        cut: were cut at a length.
        unknown: nothing says how they ended.
    """

    ended: int = 0
    missing: int = 0
    cut: int = 0
    unknown: int = 0

    @property
    def sequences(self) -> int:
        """All of them."""
        return sum(astuple(self))

    @property
    def complete(self) -> bool:
        """Whether every sequence that ended has its end token counted, as far as every one's end is known."""
        return not self.missing and not self.unknown

    def __add__(self, other: Endings) -> Endings:
        return Endings(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @classmethod
    def of(cls, rollouts: Iterable[Rollout]) -> Endings:
        """How some rollouts end."""
        kinds = [_kind(r.finish, r.missing_end or not r.length or not r.counted[-1]) for r in rollouts]
        return cls(**{name: kinds.count(name) for name in set(kinds)})

    @classmethod
    def of_columns(cls, columns: Columns) -> Endings:
        """How some rollouts end, from their columns `finish`, `missing_end` and `mask`."""
        if "finish" not in columns.rows:
            return cls(unknown=len(columns))
        finish = columns.rows["finish"]
        said = columns.rows.get("missing_end", (False,) * len(columns))
        last = columns.offsets[1:] - 1
        empty = columns.lengths == 0
        mask = columns.tokens.get("mask")
        counted = ~empty if mask is None else ~empty & mask[np.maximum(last, 0)]
        kinds = [_kind(one, lacks or not there) for one, lacks, there in zip(finish, said, counted, strict=True)]
        return cls(**{name: kinds.count(name) for name in set(kinds)})


def _kind(finish: str, missing: bool) -> str:
    if finish == "end":
        return "missing" if missing else "ended"
    return "cut" if finish == "length" else "unknown"
