"""Where random numbers come from: one stream a job, in the library that draws."""

from __future__ import annotations

from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from kullback.errors import InputError, shown

if TYPE_CHECKING:
    import torch


class Randomness:
    """A seed, and the stream that it starts in each library, on the CPU; batch after batch goes on in it.

    Raises:
        InputError: a seed that torch's generator does not take: negative, 2**64 or more, no whole number.

    Example:
        >>> from kullback.models import Randomness
        >>> one, two = Randomness(0), Randomness(0)
        >>> bool(one.numpy.random() == two.numpy.random())
        True
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 1 << 64:
            raise InputError(f"seed={shown(seed)} came, but a seed is a whole number from 0 to 2**64 - 1")
        self.seed: int = int(seed)

    @cached_property
    def torch(self) -> torch.Generator:
        """For samplers that draw with torch."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def numpy(self) -> np.random.Generator:
        """For samplers that draw with NumPy, or hand a seed of their own to a server."""
        return np.random.default_rng(self.seed)


def other_seed(seed: int) -> int:
    """A seed whose streams have nothing to do with those of this one.

    Example:
        >>> from kullback.models.randomness import other_seed
        >>> other_seed(0) == other_seed(0) != other_seed(1)
        True
    """
    # By all bits: torch's generator on the CPU reads the lower 32 of a seed.
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0])
