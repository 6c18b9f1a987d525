"""What a function does with behaviour log-probs: which importance ratio weights its terms, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kullback.auditing.probes import Probe, same
from kullback.auditing.subject.failures import CallFailed

Ratio = Literal["token", "prefix", "earlier tokens", "sequence", "geometric mean", "ignored", "upside down", "other"]

EXPONENTS: dict[Ratio, tuple[float, float, float]] = {
    "ignored": (0, 0, 0),
    "token": (1, 0, 0),
    "prefix": (1, 1, 0),
    "earlier tokens": (0, 1, 0),
    "sequence": (1, 1, 1),
    "geometric mean": (0.5, 0.5, 0.5),
    "upside down": (-1, 0, 0),
}
"""How a term grows with q/μ of its own token, of the one before, and of the one after."""


@dataclass(frozen=True)
class Weighting:
    """The importance ratio that a function uses.

    Attributes:
        ratio: "token", "prefix", "earlier tokens", "sequence", "geometric mean", "ignored", "upside down"
            or "other".
        low, high: what the ratio is clipped to; 0 and inf where it is not.
        detached: whether the ratio carries no gradient; None where it cannot be told.
        band: the ratios outside which a term is dropped, (0, inf) where none is.
        inverted: whether the ratios inside a band are dropped and those outside kept, or a clip makes a constant.
    """

    ratio: Ratio
    low: float = 0.0
    high: float = float("inf")
    detached: bool | None = None
    band: tuple[float, float] = (0.0, float("inf"))
    inverted: bool = False

    @property
    def clipped(self) -> bool:
        """Whether the ratio is clipped."""
        return self.low > 0 or self.high < float("inf")

    @property
    def drops(self) -> bool:
        """Whether terms are dropped for their ratio."""
        return self.band != (0.0, float("inf"))


def weighting(probe: Probe) -> Weighting | None:
    """Look at behaviour log-probs by changing one token's; None where the function does not take any."""
    if not {"behavior_logprobs", "ratio"} & probe.subject.columns or not probe.possible:
        return None
    try:
        if _only_outside(probe):
            return Weighting("token", inverted=True)
        ratio = _ratio(probe)
        if ratio == "ignored" and _constant(probe):
            return Weighting(ratio, inverted=True)
        band = _band(probe)
        if ratio in ("ignored", "other", "upside down"):
            return Weighting(ratio, band=band)
        low, high = _clip(probe, ratio)
        return Weighting(ratio, low, high, _detached(probe), band)
    except CallFailed:
        return None


def _ratio(probe: Probe) -> Ratio:
    x, s = 0.8, 0.15
    last, first = probe.tokens([0.0, x], [0.0, 0.0]), probe.tokens([x, 0.0], [0.0, 0.0])
    if same(last, 0.0) or same(first, 0.0):
        return "other"
    own = probe.tokens([0.0, x], [0.0, s]) / last
    before = probe.tokens([0.0, x], [s, 0.0]) / last
    after = probe.tokens([x, 0.0], [0.0, s]) / first
    seen = np.log(np.maximum([own, before, after], 1e-12)) / s
    return next((ratio for ratio, want in EXPONENTS.items() if np.allclose(seen, want, atol=1e-3)), "other")


def _clip(probe: Probe, ratio: Ratio) -> tuple[float, float]:
    """The least and the most that a weight becomes, from ratios of exp(±6), and of exp(±14) where these pass.

    On terms that are so small that no clamp of the weighted term sees them.
    """
    low, high = _ends(probe, ratio, 0.02, 6.0)
    small, reach = 1e-6, 14.0
    plain = _weighted(probe, ratio, small, 0.0)
    if plain == 0.0 or not np.isclose(_weighted(probe, ratio, small, 6.0) / plain, np.exp(6.0), rtol=0.01):
        return low, high  # Rounding, or a clip that is known already.
    far_low, far_high = _ends(probe, ratio, small, reach)
    return low or far_low, min(high, far_high)


def _ends(probe: Probe, ratio: Ratio, x: float, reach: float) -> tuple[float, float]:
    """The weights at both ends, 0 and inf where they are the ratios themselves or the term is dropped."""
    plain = _weighted(probe, ratio, x, 0.0)
    high, low = (_weighted(probe, ratio, x, s) / plain for s in (reach, -reach))
    if abs(high) < 1e-9:  # dropped, and not clipped
        high = float("inf")
    return (low if low > 1.05 * np.exp(-reach) else 0.0), (high if high < 0.95 * np.exp(reach) else float("inf"))


def _weighted(probe: Probe, ratio: Ratio, x: float, s: float) -> float:
    """A second token's term of log-ratio x, weighted by ratios of exp(s) where the weight reads them."""
    first = s if ratio in ("earlier tokens", "geometric mean") else 0.0
    second = s if ratio != "earlier tokens" else 0.0
    return probe.tokens([0.0, x], [first, second])


def _weight_of(probe: Probe, s: float) -> float:
    """What one token's term is multiplied by at a log q/μ of s, times the term."""
    return probe.tokens([0.0, 0.02], [0.0, s])


def _only_outside(probe: Probe) -> bool:
    """Whether a term counts where the ratio is far from 1, and not where it is 1."""
    here, far = _weight_of(probe, 0.0), [_weight_of(probe, s) for s in (-3.0, 3.0)]
    return same(here, 0.0) and abs(here) < 1e-12 and all(abs(value) > 1e-9 for value in far)


def _constant(probe: Probe) -> bool:
    """Whether the ratio is read, and becomes a number other than 1 whatever it is: the bounds of a clip inverted."""
    if not probe.subject.columns & {"behavior_logprobs", "ratio"}:
        return False
    plain = _weight_of(probe, 0.0)
    if not all(same(_weight_of(probe, s), plain) for s in (-6.0, -3.0, 3.0, 6.0)):
        return False
    # Without clips the ratio would show.
    free = Probe(probe.subject.without("clamp"), probe.separable, probe.dtype)
    return not same(_weight_of(free, 3.0), _weight_of(free, 0.0))


def _band(probe: Probe) -> tuple[float, float]:
    """The ratios outside which a term is dropped, from a grid of log q/μ and bisection."""
    reach = 14.0
    if abs(_weight_of(probe, 0.0)) < 1e-9:
        return 0.0, float("inf")

    def kept(s: float) -> bool:
        return abs(_weight_of(probe, s)) > 1e-9 * float(np.exp(min(s, 6.0)))

    ends = []
    for sign in (-1.0, 1.0):
        if kept(sign * reach):
            ends.append(0.0 if sign < 0 else float("inf"))
            continue
        inside, outside = 0.0, reach
        for _ in range(24):
            middle = 0.5 * (inside + outside)
            inside, outside = (middle, outside) if kept(sign * middle) else (inside, middle)
        ends.append(float(np.exp(sign * inside)))
    return ends[0], ends[1]


def _detached(probe: Probe) -> bool | None:
    """Whether a weight adds k·∇log q to the gradient, from one token with μ = q."""
    q, p, h = np.array([[-1.0]]), np.array([[-1.9]]), 1e-4
    values, slope = probe.at(q, p, q)
    up, down = (probe.at(q + d, p, q + d)[0][0] for d in (h, -h))
    own = (up - down) / (2 * h)
    if same(float(values[0]), 0.0):
        return None
    share = (float(slope[0, 0]) - own) / float(values[0])
    if abs(share) < 1e-2:
        return True
    return False if abs(share - 1.0) < 1e-2 else None
