"""How far a job is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a job is: sequences finished of all (0 where that is not known), tokens drawn or read so far."""

    sequences: int
    total: int
    tokens: int


OnProgress = Callable[[Progress], None]


def unheard(progress: Progress) -> None:
    """Tells nobody."""
