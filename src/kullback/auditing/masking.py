"""What a function does with masks, lengths, and the tokens at both ends of a sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.probes import Mask, Probe, same
from kullback.auditing.subject.failures import CallFailed

GARBAGE = ((-7.7, -0.2), (-0.1, -3.3))
"""Log-probs of the policy and the reference that padding may hold."""

Length = Literal["sum", "mean", "other"]
Padding = Literal["ignored", "counted"]


@dataclass(frozen=True)
class Masking:
    """Facts; None where there is nothing to see.

    Attributes:
        takes_mask: whether it has a mask at all.
        padding: "ignored", "counted" where what padding holds changes the result, or None for results a token.
        width: whether more padding, all zeros, changes the result.
        adds: what each more place of padding adds to it.
        adds: what each more place of padding adds to it.
        last_counts, first_counts: whether the last and the first token of a sequence have any effect.
        length: "sum", "mean" or "other": how the result grows with the number of equal tokens.
    """

    takes_mask: bool
    padding: Padding | None = None
    width: bool | None = None
    adds: float = 0.0
    last_counts: bool | None = None
    first_counts: bool | None = None
    length: Length | None = None


@dataclass(frozen=True)
class Row:
    """One sequence of different log-probs, padded to a width; `by` is how far a token is moved."""

    q: Float64
    p: Float64
    mask: Mask
    by: float = 1.0

    @classmethod
    def of(cls, length: int, width: int, fill: tuple[float, float] = (0.0, 0.0)) -> Row:
        """`length` tokens, and padding that holds `fill`."""
        q, p = np.full((1, width), fill[0]), np.full((1, width), fill[1])
        q[0, :length] = -0.4 - 0.3 * np.arange(length)
        p[0, :length] = -1.1 - 0.2 * np.cos(np.arange(length))
        return cls(q, p, np.arange(width)[None, :] < length)

    @classmethod
    def equal(cls, length: int) -> Row:
        """`length` tokens that are all the same."""
        return cls(np.full((1, length), -0.9), np.full((1, length), -1.6), np.ones((1, length), dtype=bool))

    def near(self) -> Row:
        """The same of nearly equal models."""
        return Row(self.q, self.q - 0.1 * (self.q - self.p), self.mask, 0.03)

    def turned(self) -> Row:
        """The same tokens in the other order, of a row without padding."""
        return Row(self.q[:, ::-1].copy(), self.p[:, ::-1].copy(), self.mask, self.by)

    def moved(self, place: int) -> Row:
        """The same with other log-probs of one token."""
        q, p = self.q.copy(), self.p.copy()
        q[0, place] -= 0.17 * self.by
        p[0, place] -= 0.9 * self.by
        return Row(q, p, self.mask)

    def value(self, probe: Probe) -> float:
        """What the function makes of it."""
        return float(probe.at(self.q, self.p, mask=self.mask)[0][0])


def masking(probe: Probe) -> Masking:
    """Look at padding, lengths and ends by changing one thing at a time."""
    takes_mask = "mask" in probe.subject.columns
    if not probe.possible:
        return Masking(takes_mask)
    seen = Masking(takes_mask) if probe.subject.kind == "token" else _padding(probe, takes_mask)
    first, last = _ends(probe)
    return replace(seen, last_counts=last, first_counts=first, length=_length(probe))


def _padding(probe: Probe, takes_mask: bool) -> Masking:
    """What padding does, and whether the padded width matters."""
    try:
        plain = Row.of(2, 4).value(probe)
        filled = [Row.of(2, 4, fill).value(probe) for fill in GARBAGE]
        wider, widest = (Row.of(2, width).value(probe) for width in (7, 10))
    except CallFailed:
        return Masking(takes_mask)
    ignored = all(same(plain, other) for other in filled)
    # What is divided by the width moves less and less as it grows.
    adds = (wider - plain) / 3 if same(widest - plain, 2 * (wider - plain)) and not same(plain, wider) else 0.0
    return Masking(takes_mask, "ignored" if ignored else "counted", not same(plain, wider) and not adds, adds)


def _ends(probe: Probe) -> tuple[bool | None, bool | None]:
    """Whether the first and the last of three tokens have an effect; None where none of the three has."""
    seen = _moving(probe, Row.of(3, 3))
    # A clamp that binds at once hides what moves, and so does a largest or a middle token: look at nearly equal
    # models, and at the same tokens in the other order, too.
    for other in (Row.of(3, 3).near(), Row.of(3, 3).turned()):
        if not all(seen):
            seen = [a or b for a, b in zip(seen, _moving(probe, other), strict=True)]
    first, _, last = seen
    return (first, last) if any(seen) else (None, None)


def _moving(probe: Probe, row: Row) -> list[bool]:
    """Which of three tokens have an effect."""
    try:
        plain = row.value(probe)
        return [not same(plain, row.moved(place).value(probe)) for place in range(3)]
    except CallFailed:
        return [False] * 3


def _length(probe: Probe) -> Length | None:
    """How the result grows from one token to two and four that are the same."""
    try:
        one, two, four = (Row.equal(length).value(probe) for length in (1, 2, 4))
    except CallFailed:
        return None
    if same(one, 0.0):
        return None
    if same(two, 2 * one) and same(four, 4 * one):
        return "sum"
    return "mean" if same(two, one) and same(four, one) else "other"
