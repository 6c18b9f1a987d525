"""A few log-probs of each column of a file, in which it shows to what they were rounded."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kullback.jobs.files.parts import Part
from kullback.rollouts import LOGPROB_COLUMNS

ENOUGH = 8192
"""Values of a column that are kept."""


@dataclass
class Samples:
    """The first counted log-probs of each column that a file has."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        """More rows."""
        tokens = part.block.columns.tokens
        for name in LOGPROB_COLUMNS:
            held = self.columns.get(name, np.empty(0, dtype=np.float32))
            if name in tokens and (name not in self.columns or len(held) < ENOUGH):
                values = tokens[name][: 4 * ENOUGH]
                counted = values if "mask" not in tokens else values[tokens["mask"][: 4 * ENOUGH].astype(bool)]
                self.columns[name] = np.concatenate([held, counted[: ENOUGH - len(held)]])
