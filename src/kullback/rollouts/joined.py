"""Files that hold the same tokens, opened as one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from kullback.errors import FileError, InputError
from kullback.rollouts.columns import Columns, split
from kullback.rollouts.joining import ROLES, By, Role, join, joined_metadata
from kullback.rollouts.metadata import Metadata
from kullback.rollouts.readers.format import Format
from kullback.rollouts.record import Rollout
from kullback.rollouts.table import BLOCK_ROWS, Rollouts


def join_rollouts(first: Rollouts, *others: Rollouts, by: By = "order") -> Rollouts:
    """What drew the tokens of the first file, scored by the models of one or two others.

    The second file's log-probs become `logprobs`, so that estimates are of KL(first‖second), and a third's
    `ref_logprobs`; see `kullback.rollouts.joining.join`. Rows are joined when they are asked for.

    Args:
        first, others: opened files, of the same tokens.
        by: how rows are paired: "order", "id" or "tokens".

    Raises:
        InputError: no other file, or more than two.
        FileError: later, a row that has no partner or holds other tokens than its partner.
    """
    if not 1 <= len(others) <= len(ROLES):
        raise InputError(f"{len(others)} files came to join with {first.path}, but one or two can be")
    joined = first
    for other, role in zip(others, ROLES, strict=False):
        joined = Rollouts(JoinedSource(joined, other, role, by))
    return joined


class JoinedSource:
    """Two tables of the same tokens, as one."""

    def __init__(self, first: Rollouts, second: Rollouts, role: Role, by: By) -> None:
        self._first, self._second, self._role, self._by = first, second, role, by

    @property
    def path(self) -> Path:
        """Of the first."""
        return self._first.path

    @property
    def metadata(self) -> Metadata:
        """Of both."""
        return joined_metadata(self._first.metadata, self._second.metadata, self._role)

    @property
    def format(self) -> Format | None:
        """None: it is of two."""
        return None

    def __len__(self) -> int:
        lengths = len(self._first), len(self._second)
        return max(lengths) if self._by == "order" else lengths[0]

    def columns(self) -> tuple[str, ...]:
        """The first's, and the role."""
        names = self._first.columns
        return (self._role, *(name for name in names if name != self._role))

    def blocks(self, rows: int, start: int = 0) -> Iterator[list[Rollout]]:
        """The rows from number `start` on, at most `rows` at a time.

        Raises:
            FileError: rows that are no partners.
        """
        left = islice(self._rows(), start, None)
        while block := list(islice(left, rows)):
            yield block

    def batches(self, names: Sequence[str]) -> Iterator[Columns]:
        """The rows by column."""
        first = 0
        for block in self.blocks(BLOCK_ROWS):
            yield from split(block, first, names)
            first += len(block)

    def _rows(self) -> Iterator[Rollout]:
        try:
            yield from join(self._first, self._second, role=self._role, by=self._by)
        except InputError as error:
            raise FileError(f"{self._first.path} and {self._second.path} cannot be joined: {error}") from error
