"""Four sequences of two prompts, under three laws, and what a dump of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = 6
PROMPTS = ((20, 75, 11), (30, 8))
COMPLETIONS = ((80, 65, 23, 1), (79, 8, 2), (12, 19, 1), (51, 57, 78, 4, 50))
"""The first two are of the first prompt; 1 is the end token."""
ENDS = (True, False, True, False)
REWARDS = (0.5, 0.25, 0.0, 1.0)

_RANDOM = np.random.default_rng(7)
# Four decimals, so that what rounds to as many says the same.
POLICY, REFERENCE, SAMPLER = (
    tuple(tuple(np.round(-_RANDOM.uniform(0.01, 6.0, len(c)), 4).tolist()) for c in COMPLETIONS) for _ in range(3)
)
ROWS = range(len(COMPLETIONS))


def prompt(row: int) -> list[int]:
    return list(PROMPTS[row // 2])


def tokens(row: int) -> list[int]:
    return [*prompt(row), *COMPLETIONS[row]]


def padded(values: Sequence[float], before: int, length: int, fill: float = 0.0) -> list[float]:
    """A column of a whole sequence: `fill` before the completion and after it."""
    return [fill] * before + list(values) + [fill] * (length - before - len(values))


@dataclass(frozen=True, kw_only=True)
class Dump:
    """A dump, and what is in it.

    Attributes:
        format: its name.
        file: where it lies, below a folder.
        records: of the file.
        columns: the log-probs that a reader finds, by the names of `Rollout`.
        rows: which of the four sequences count, and in which order.
        say: what else each rollout says, from the number of the sequence.
    """

    format: str
    file: str
    records: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Sequence[Sequence[float]]]
    rows: Sequence[int] = tuple(ROWS)
    say: Callable[[int], Mapping[str, Any]] = lambda row: {}


ALL = {"behavior_logprobs": SAMPLER, "logprobs": POLICY, "ref_logprobs": REFERENCE}
TWO = {"behavior_logprobs": SAMPLER, "logprobs": POLICY}
ONE = {"behavior_logprobs": SAMPLER}


def finish(row: int) -> str:
    return "end" if ENDS[row] else "length"
