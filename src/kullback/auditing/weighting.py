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
    """

    ratio: Ratio
    low: float = 0.0
    high: float = float("inf")
    detached: bool | None = None


def weighting(probe: Probe) -> Weighting | None:
    """Look at behaviour log-probs by changing one token's; None where the function does not take any."""
    if not {"behavior_logprobs", "ratio"} & probe.subject.columns or not probe.possible:
        return None
    try:
        ratio = _ratio(probe)
        if ratio in ("ignored", "other", "upside down"):
            return Weighting(ratio)
        low, high = _clip(probe, ratio)
        return Weighting(ratio, low, high, _detached(probe))
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
    """The least and the most that a weight becomes, from ratios of exp(±6) on a small term that no clamp sees."""
    x, reach = 0.02, 6.0
    plain = probe.tokens([0.0, x], [0.0, 0.0])

    def weight(s: float) -> float:
        first = s if ratio in ("earlier tokens", "geometric mean") else 0.0
        second = s if ratio != "earlier tokens" else 0.0
        return probe.tokens([0.0, x], [first, second]) / plain

    high, low = weight(reach), weight(-reach)
    return (low if low > 1.05 * np.exp(-reach) else 0.0), (high if high < 0.95 * np.exp(reach) else float("inf"))


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
