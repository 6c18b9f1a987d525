"""Which worker does which batch of a plan: every batch once, whatever is lost on the way."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kullback.errors import ModelError
from kullback.jobs.plans import Batch

LOSSES = 5
"""Workers that may be lost one after another without a batch finished between: then it is no accident."""


class Schedule:
    """What is to be done, who does it, and what is done.

    Batches are handed out in the plan's order, in which prompts of like length stand together; a worker goes on with
    the prompt that it had. When nothing is left to hand out, what has been out for longest is handed out once more. Of
    two copies the first counts, and since a row's random numbers are its own, they are equal.

    Args:
        batches: of the plan.
        done: numbers of those that are there already.
        copies: workers that may have one batch at a time.
    """

    def __init__(self, batches: Sequence[Batch], done: Collection[int] = (), *, copies: int = 2) -> None:
        self._first = [batch.draws[0].prompt for batch in batches]
        self._left = dict.fromkeys(number for number in range(len(batches)) if number not in done)
        self._at: dict[int, int] = {}
        self._had: dict[int, int] = {}
        self._done = set(done)
        self._copies = copies
        self._lost = 0

    @property
    def open(self) -> int:
        """Batches that are not done."""
        return len(self._first) - len(self._done)

    def next_for(self, worker: int) -> int | None:
        """The batch that a worker is to do, or None."""
        found = self._fresh(worker)
        if found is None:
            found = self._copy(worker)
        if found is not None:
            self._left.pop(found, None)
            self._at[worker] = found
            self._had[worker] = self._first[found]
        return found

    def finish(self, worker: int, batch: int) -> bool:
        """Note that a worker has done a batch; whether it is the first to."""
        self._at.pop(worker, None)
        first = batch not in self._done
        self._done.add(batch)
        self._left.pop(batch, None)
        self._lost = 0
        return first

    def lose(self, worker: int) -> None:
        """Note that a worker is gone; what it was doing is handed out again.

        Raises:
            ModelError: so many were lost in a row that another one would be too.
        """
        self._lost += 1
        batch = self._at.pop(worker, None)
        self._had.pop(worker, None)
        if self._lost >= LOSSES:
            raise ModelError(
                f"{LOSSES} workers ended one after another without finishing a batch: they may have run out of memory, "
                "so pass fewer --workers or a smaller --batch-size"
            )
        if batch is not None and batch not in self._done and batch not in self._at.values():
            self._left = {batch: None, **self._left}

    def _fresh(self, worker: int) -> int | None:
        mine = (number for number in self._left if self._first[number] == self._had.get(worker))
        return next(mine, next(iter(self._left), None))

    def _copy(self, worker: int) -> int | None:
        # Dicts keep the order in which batches were handed out: the first has been out for longest.
        out = list(self._at.values())
        can = (number for number in out if number not in self._done and out.count(number) < self._copies)
        return None if worker in self._at else next(can, None)
