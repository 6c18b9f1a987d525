"""A few log-probs of each column of a file, which show to what they were rounded, and whether filters were applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kullback.jobs.files.parts import Part
from kullback.jobs.files.questions import COLUMN
from kullback.rollouts import LOGPROB_COLUMNS, Law
from kullback.rollouts.quanta import Copy, Rounding, law_of_values, rounded_copy, rounding_of, rounding_within

Words = Mapping[int, float] | Mapping[str, float]
"""Likely words of a place, with their log-probs."""

ENOUGH = 8192
"""Values of a column that are kept."""

ECHOES = 16
"""Rows of a block that are asked whether they are an echo."""

LOG_UNLIKELY = float(np.log(1e-3))

TIE = 1e-5
"""Nats by which the log-prob of what was drawn may lie below the largest of its list: both were rounded."""


@dataclass(frozen=True)
class Likeliest:
    """How often what was drawn is the likeliest word of its list.

    Attributes:
        count: places where it is.
        of: places with a list of two words or more.
        log_chance: log of the probability that sampling takes the likeliest at all of those, by the law of the lists.
    """

    count: int = 0
    of: int = 0
    log_chance: float = 0.0

    @property
    def greedy(self) -> bool:
        """Whether sampling would not have given so many: the likeliest everywhere, less than once in a thousand."""
        return 0 < self.count == self.of and self.log_chance < LOG_UNLIKELY

    def __add__(self, other: Likeliest) -> Likeliest:
        return Likeliest(self.count + other.count, self.of + other.of, self.log_chance + other.log_chance)

    @classmethod
    def among(cls, drawn: np.ndarray, places: Sequence[Words]) -> Likeliest:
        """Of tokens with these log-probs, (tokens,), and the lists at their places."""
        told = [
            (float(value), max(place.values())) for value, place in zip(drawn, places, strict=True) if len(place) > 1
        ]
        return cls(
            count=sum(value >= most - TIE for value, most in told),
            of=len(told),
            log_chance=sum(value for value, _ in told),
        )


@dataclass
class Samples:
    """The first counted log-probs of each column that a file has, and the first top-k lists of what drew the tokens.

    Attributes:
        columns: by name.
        lists: of the first places, by the column whose law they are of.
        likeliest: how often what was drawn is the first of its list, at those places.
        echoed: whether a row is a prompt and its completion as one, because its file does not tell where one ends.
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, list[Words]] = field(default_factory=dict)
    likeliest: Likeliest = field(default_factory=Likeliest)
    echoed: bool = False

    def add(self, part: Part) -> None:
        """More rows."""
        tokens = part.block.columns.tokens
        for name in LOGPROB_COLUMNS:
            held = self.columns.get(name, np.empty(0, dtype=np.float32))
            if name in tokens and (name not in self.columns or len(held) < ENOUGH):
                values = tokens[name][: 4 * ENOUGH]
                counted = values if "mask" not in tokens else values[tokens["mask"][: 4 * ENOUGH].astype(bool)]
                self.columns[name] = np.concatenate([held, counted[: ENOUGH - len(held)]])
        self.echoed = self.echoed or any("echo" in said for said in part.block.columns.rows.get("extra", ())[:ECHOES])
        if len(self.lists.get(COLUMN[part.drawer], ())) < ENOUGH:
            self._list(part)

    def _list(self, part: Part) -> None:
        offsets, drawn = part.block.columns.offsets, part.block.columns.tokens[COLUMN[part.drawer]]
        for number, places in enumerate(part.block.columns.rows.get("top", ())):
            if places is not None:
                self.lists.setdefault(COLUMN[part.drawer], []).extend(places)
                self.likeliest += Likeliest.among(drawn[offsets[number] : offsets[number + 1]], places)

    def rounding(self, name: str) -> Rounding | None:
        """To what a column was rounded; where it does not show, to what its logits were, by its lists."""
        found = rounding_of(self.columns[name])
        return rounding_within(self.lists[name]) if found is None and name in self.lists else found

    def law(self, name: str) -> Law:
        """The law that a column shows."""
        return law_of_values(self.columns[name])

    @property
    def copy(self) -> Copy | None:
        """Whether the reference is the policy rounded."""
        q, p = (self.columns.get(name) for name in ("logprobs", "ref_logprobs"))
        return None if q is None or p is None or len(q) != len(p) else rounded_copy(q, p)
