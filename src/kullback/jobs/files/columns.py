"""What rows are told apart by: step, environment, reward, length, and whatever else their file says of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.rollouts.columns import USUAL, Columns

Value = int | float | str | bool
"""What a column holds of a row."""

READ, SHOWN, LISTS = (*USUAL, "extra"), ("text", "tokens"), ("top",)
"""What is read of every row, what is shown of a few, and top-k lists, which show to what logits were rounded."""

POSITION = "position"
"""By ranges of positions within a sequence: no column, for it tells tokens apart and not rows."""

KNOWN = ("step", "prompt_id", "sample", "reward", "finish", "sampled_from", "missing_end")
"""Columns of a table of rollouts that tell rows apart."""

MADE = ("length", "file")
"""Columns that every row has: counted tokens, and where it is."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "environment": ("environment", "env", "env_id", "env_name", "task", "task_name", "data_source", "dataset"),
    "prompt": ("prompt_id",),
    "group": ("prompt_id",),
}
"""Names that stand for the first of these that the rows have."""


@dataclass(frozen=True)
class Block:
    """Rows of a file, a few at a time.

    Attributes:
        file: its name.
        columns: the rows.
    """

    file: str
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def counted(self) -> np.ndarray:
        """Counted tokens of each row."""
        mask = self.columns.tokens.get("mask")
        if mask is None:
            return self.columns.lengths
        sums = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        return np.asarray(sums[self.columns.offsets[1:]] - sums[self.columns.offsets[:-1]])

    @cached_property
    def _extra(self) -> Sequence[Mapping[str, Any]]:
        return self.columns.rows.get("extra") or [{}] * len(self)

    def values(self, name: str) -> Sequence[Value | None]:
        """What each row holds in a column, None where it holds nothing.

        Example:
            >>> from kullback import Rollout
            >>> row = Rollout(logprobs=[-0.1], ref_logprobs=[-0.2], step=3, extra={"env_id": "maths"})
            >>> block = Block("a.jsonl", Columns.of([row], 0, READ))
            >>> block.values("step"), block.values("environment"), block.values("length"), block.values("file")
            ([3], ['maths'], [1], ['a.jsonl'])
        """
        if name == "file":
            return [self.file] * len(self)
        if name == "length":
            return list(self.counted.tolist())
        meant = ALIASES.get(name, (name,))
        stored = next((self.columns.rows[each] for each in meant if each in KNOWN and each in self.columns.rows), None)
        if stored is not None:
            return list(stored)
        if "extra" not in self.columns.rows:
            return [None] * len(self)
        return [next((row[each] for each in meant if each in row), None) for row in self._extra]

    @property
    def names(self) -> list[str]:
        """The columns that the rows can be told apart by."""
        extra = dict.fromkeys(name for row in self._extra for name in row)
        stored = [name for name in KNOWN if name in self.columns.rows]
        meant = [alias for alias, names in ALIASES.items() if any(name in (*stored, *extra) for name in names)]
        return list(dict.fromkeys([*stored, *MADE, *extra, *meant, POSITION]))

    def select(self, kept: np.ndarray) -> Block:
        """Some of the rows."""
        return self if kept.all() else Block(self.file, self.columns.select(kept))


def check_names(asked: Collection[str], block: Block, option: str) -> None:
    """Refuse a column that the rows have not.

    Raises:
        InputError: by name, with the columns that are there.
    """
    there = block.names
    for name in asked:
        if name not in there:
            close = get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]}? They" if close else "they"
            raise InputError(
                f"{option} {name} came, but the rows hold no single number or text by that name (a list or an object "
                f"is none): {hint} have {', '.join(sorted(there))}"
            )
