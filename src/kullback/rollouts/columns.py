"""A block of rollouts by column: the numbers of all tokens end to end, and where each sequence begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kullback.rollouts.record import FEATURES, TOKEN_COLUMNS, Rollout

LISTED = (*TOKEN_COLUMNS, "mask", *FEATURES)
"""Columns with a number, or several, for each token."""

USUAL = (*LISTED, "prompt_id", "sample", "step", "sampled_from", "reward", "finish", "missing_end")
"""Columns that are read unless others are asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Some rollouts that all have the same columns of numbers, side by side; nothing is padded.

    Attributes:
        first: the number of the first of them in the file.
        offsets: where each sequence begins among the tokens, and where the last ends, (rows + 1,).
        tokens: by the names of `Rollout`, a number for each token, (tokens,): the log-probs, `mask`, `token_kl` and
            `ref_mass` that were asked for and are there, and of several numbers, (tokens, numbers), `state` and
            `deviation`. They may be the file's own memory: read, do not write.
        rows: by the names of `Rollout`, a value for each sequence, (rows,): `prompt_id`, `sample`, `step`, `reward`,
            `finish`, `missing_end`, `sampled_from`, `text`, `extra`; those that were asked for and that a row has.
    """

    first: int
    offsets: np.ndarray
    tokens: Mapping[str, np.ndarray]
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, counted or not."""
        return np.diff(self.offsets)

    def select(self, kept: np.ndarray) -> Columns:
        """Some of the rows, by a mask (rows,); a copy."""
        lengths = self.lengths
        counted = np.repeat(kept, lengths)
        at = np.flatnonzero(kept).tolist()
        return Columns(
            first=self.first,
            offsets=np.concatenate([[0], np.cumsum(lengths[kept])]),
            tokens={name: values[counted] for name, values in self.tokens.items()},
            rows={name: [values[i] for i in at] for name, values in self.rows.items()},
        )

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], first: int, names: Sequence[str]) -> Columns:
        """Rollouts that have the same columns of numbers, by column."""
        offsets = np.concatenate([[0], np.cumsum([rollout.length for rollout in rollouts])])
        held = [name for name in LISTED if name in names and getattr(rollouts[0], name) is not None]
        tokens = {name: np.concatenate([getattr(rollout, name) for rollout in rollouts]) for name in held}
        rows = {name: [getattr(rollout, name) for rollout in rollouts] for name in names if name not in LISTED}
        return cls(
            first=first,
            offsets=offsets,
            tokens=tokens,
            rows={name: values for name, values in rows.items() if any(value is not None for value in values)},
        )


def split(rollouts: Sequence[Rollout], first: int, names: Sequence[str]) -> Iterator[Columns]:
    """Rollouts by column, a block for each run of rows that have the same columns of numbers."""
    start = 0
    for at in range(1, len(rollouts) + 1):
        if at == len(rollouts) or _kind(rollouts[at]) != _kind(rollouts[start]):
            yield Columns.of(rollouts[start:at], first + start, names)
            start = at


def _kind(rollout: Rollout) -> tuple[bool, ...]:
    return tuple(getattr(rollout, name) is not None for name in LISTED)
