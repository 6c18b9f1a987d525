"""A few log-probs of each column of a file, which show to what they were rounded, and whether filters were applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kullback.jobs.files.parts import Part
from kullback.rollouts import LOGPROB_COLUMNS, Law
from kullback.rollouts.quanta import Copy, Rounding, law_of_values, rounded_copy, rounding_of, rounding_within

ENOUGH = 8192
"""Values of a column that are kept."""


@dataclass
class Samples:
    """The first counted log-probs of each column that a file has, and the first top-k lists of what drew the tokens."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lists: list[Mapping[int, float] | Mapping[str, float]] = field(default_factory=list)

    def add(self, part: Part) -> None:
        """More rows."""
        tokens = part.block.columns.tokens
        for name in LOGPROB_COLUMNS:
            held = self.columns.get(name, np.empty(0, dtype=np.float32))
            if name in tokens and (name not in self.columns or len(held) < ENOUGH):
                values = tokens[name][: 4 * ENOUGH]
                counted = values if "mask" not in tokens else values[tokens["mask"][: 4 * ENOUGH].astype(bool)]
                self.columns[name] = np.concatenate([held, counted[: ENOUGH - len(held)]])
        if len(self.lists) < ENOUGH:
            listed = part.block.columns.rows.get("top", ())
            self.lists += [place for row in listed if row is not None for place in row]

    def rounding(self, name: str) -> Rounding | None:
        """To what a column was rounded; where it does not show, to what the logits of what drew the tokens were."""
        found = rounding_of(self.columns[name])
        within = found is None and name == "behavior_logprobs" and self.lists
        return rounding_within(self.lists) if within else found

    def law(self, name: str) -> Law:
        """The law that a column shows."""
        return law_of_values(self.columns[name])

    @property
    def copy(self) -> Copy | None:
        """Whether the reference is the policy rounded."""
        q, p = (self.columns.get(name) for name in ("logprobs", "ref_logprobs"))
        return None if q is None or p is None or len(q) != len(p) else rounded_copy(q, p)
