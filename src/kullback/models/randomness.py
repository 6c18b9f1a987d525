"""Where random numbers come from: a stream for every row that is drawn, whoever draws it, and in whichever batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kullback.errors import InputError, shown

if TYPE_CHECKING:
    import torch

BLOCK = 256
"""Numbers of a row that are made at a time."""


class Row(NamedTuple):
    """Which row of a job random numbers are for.

    Attributes:
        role: 0 where the policy was to be sampled, 1 for the reference.
        prompt, sample: of which prompt, and the how-manieth of it.
    """

    role: int
    prompt: int
    sample: int


class Randomness:
    """A seed, and the streams of random numbers that it starts, on the CPU.

    A row's numbers come from a counter-based generator, Philox, whose key is the seed and whose counter begins at the
    row: they depend neither on the rows that are drawn beside it nor on those before it. So a batch can be drawn by any
    worker, again after a crash, or with other rows in it, from the same numbers.

    Args:
        seed: a whole number from 0 to 2**64 − 1.
        rows: that are to be drawn; None for whoever draws without saying what.

    Raises:
        InputError: a seed that torch's generator does not take: negative, 2**64 or more, no whole number.

    Source: Salmon, Moraes, Dror and Shaw, “Parallel random numbers: as easy as 1, 2, 3”, SC 2011.

    Example:
        >>> from kullback.models import Randomness
        >>> one, two = Randomness(0).of([(0, 3, 1)]), Randomness(0).of([(0, 2, 0), (0, 3, 1)])
        >>> bool(next(one.uniforms(1))[0] == next(two.uniforms(2))[1])
        True
    """

    def __init__(self, seed: int, rows: Sequence[tuple[int, int, int]] | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 1 << 64:
            raise InputError(f"seed={shown(seed)} came, but a seed is a whole number from 0 to 2**64 - 1")
        self.seed: int = int(seed)
        self.rows: tuple[Row, ...] | None = None if rows is None else tuple(Row(*row) for row in rows)

    def of(self, rows: Sequence[tuple[int, int, int]]) -> Randomness:
        """The random numbers of these rows: role, prompt and sample of each."""
        return Randomness(self.seed, rows)

    def uniforms(self, rows: int) -> Iterator[np.ndarray]:
        """Step after step a number from [0, 1) for each row, (rows,), float64.

        Raises:
            InputError: as many rows as were not asked for.
        """
        if self.rows is None:
            while True:
                yield self.numpy.random(rows)
        if rows != len(self.rows):
            raise InputError(f"random numbers for {rows} rows are wanted, but they were asked for {len(self.rows)}")
        streams = [_stream(self.seed, row) for row in self.rows]
        while True:
            yield from np.stack([stream.random(BLOCK) for stream in streams], axis=1)

    @cached_property
    def torch(self) -> torch.Generator:
        """One stream for all rows, for samplers that draw with torch."""
        import torch

        return torch.Generator().manual_seed(self.seed if self.rows is None else int(self.numpy.integers(1 << 63)))

    @cached_property
    def numpy(self) -> np.random.Generator:
        """One stream for all rows, for samplers that draw with NumPy, or hand a seed of their own to a server.

        It is that of the first row: what is drawn from it depends on how rows are put together, `uniforms` does not.
        """
        return np.random.default_rng(self.seed if not self.rows else [self.seed, *self.rows[0]])


def _stream(seed: int, row: Row) -> np.random.Generator:
    # The first word of the counter counts a row's own numbers.
    key = np.array([seed, row.role], dtype=np.uint64)
    counter = np.array([0, 0, row.sample, row.prompt], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def other_seed(seed: int) -> int:
    """A seed whose streams have nothing to do with those of this one.

    Example:
        >>> from kullback.models.randomness import other_seed
        >>> other_seed(0) == other_seed(0) != other_seed(1)
        True
    """
    # By all bits: torch's generator on the CPU reads the lower 32 of a seed.
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0])
