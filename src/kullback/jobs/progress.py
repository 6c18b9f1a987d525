"""How far a job is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        sequences: finished.
        total: of all; 0 where that is not known.
        tokens: drawn or read so far.
        share: of the work that is done, where it is not known by sequences but by bytes, say; None where it is not.
    """

    sequences: int
    total: int
    tokens: int
    share: float | None = None


OnProgress = Callable[[Progress], None]


def unheard(progress: Progress) -> None:
    """Tells nobody."""
