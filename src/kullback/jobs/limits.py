"""Numbers that a job can be asked for: finite, and no more than a machine holds."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Integral

from kullback.errors import InputError, shown

MOST = {"samples": 1_000_000, "max_new_tokens": 1_000_000, "context_length": 1_000_000, "likely": 20}
"""What is more is a slip of the pen."""

MOST_SEQUENCES = 5_000_000
"""Of one run: their log-probs, at 48 tokens each, are 4 GB."""


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse numbers that are not whole, below 1, or above `MOST`.

    Raises:
        InputError: by name.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= MOST[name]:
            raise InputError(
                f"{name}={shown(count)} came, but at least 1 is needed and at most {MOST[name]:,}, a whole number"
            )


def check_total(prompts: int, samples: int, directions: int) -> None:
    """Refuse more sequences than fit in memory.

    Raises:
        InputError: by their number.
    """
    total = prompts * samples * directions
    if total > MOST_SEQUENCES:
        raise InputError(
            f"{total:,} sequences were asked for, {samples:,} of each of {prompts:,} prompts, but a run holds at most "
            f"{MOST_SEQUENCES:,}: lower samples, or compare parts of the prompts"
        )


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is not finite or out of range.

    Raises:
        InputError: by name.
    """
    if not (isfinite(value) and low <= value <= high):
        raise InputError(f"{name} {value:g} came, but it is a number from {low:g} to {high:g}")
