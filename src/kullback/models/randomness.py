"""Where random numbers come from: one stream a job, in the library that draws."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Randomness:
    """A seed, and the stream that it starts in each library, on the CPU; batch after batch goes on in it.

    Example:
        >>> from kullback.models import Randomness
        >>> one, two = Randomness(0), Randomness(0)
        >>> bool(one.numpy.random() == two.numpy.random())
        True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @cached_property
    def torch(self) -> torch.Generator:
        """For samplers that draw with torch."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def numpy(self) -> np.random.Generator:
        """For samplers that draw with NumPy, or hand a seed of their own to a server."""
        return np.random.default_rng(self.seed)
