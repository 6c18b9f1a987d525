"""Two distributions over a few outcomes: drawn from a seed, or small enough for a hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64


@dataclass(frozen=True)
class Pair:
    """Two distributions over a few outcomes, (outcomes,): the policy q and the reference p."""

    q: Float64
    p: Float64

    @property
    def log_ratio(self) -> Float64:
        """ℓ = log q − log p."""
        return np.log(self.q) - np.log(self.p)

    @property
    def r(self) -> Float64:
        """p/q."""
        return self.p / self.q

    @property
    def kl(self) -> float:
        """KL(q‖p)."""
        return self.mean(self.log_ratio)

    @property
    def forward_kl(self) -> float:
        """KL(p‖q)."""
        return self.swapped.kl

    @property
    def jeffreys(self) -> float:
        """KL(q‖p) + KL(p‖q)."""
        return self.kl + self.forward_kl

    @property
    def chi2(self) -> float:
        """χ²(p‖q) = E_q[(r − 1)²]."""
        return self.mean((self.r - 1) ** 2)

    @property
    def swapped(self) -> Pair:
        """The same with q and p exchanged."""
        return Pair(self.p, self.q)

    def mean(self, values: Float64) -> float:
        """E_q[values], where outcomes that q excludes do not count."""
        return float(np.sum(np.where(self.q > 0, self.q * values, 0.0)))

    def variance(self, values: Float64) -> float:
        """Var_q[values]."""
        return self.mean((values - self.mean(values)) ** 2)

    def gradient(self, coefficients: Float64) -> Float64:
        """E_q[c·∇log q] in the logits of q."""
        return np.asarray(self.q * (coefficients - self.mean(coefficients)))

    def spread(self, coefficients: Float64) -> float:
        """Trace of Cov_q[c·∇log q] in the logits of q."""
        mean = self.gradient(coefficients)
        return self.mean(coefficients**2 * self.score_square) - float(mean @ mean)

    @property
    def score_square(self) -> Float64:
        """‖∇log q(x)‖² in the logits of q."""
        return np.asarray(np.sum((np.eye(len(self.q)) - self.q) ** 2, axis=1))


BY_HAND = Pair(np.array([0.8, 0.2]), np.array([0.5, 0.5]))
"""KL 0.192745 and 0.223144."""

BY_HAND_SCORE = np.array([1 / 0.8, -1 / 0.2])
"""∂log q/∂q(first) of `BY_HAND`."""

EVEN = Pair(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
"""r = ½ and 3/2; J = ¼ log 3, χ² = ¼."""

CROSSED = Pair(np.array([0.9, 0.1]), np.array([0.1, 0.9]))
"""ℓ = ±log 9."""


def pair(seed: int, outcomes: int = 5, scale: float = 1.0) -> Pair:
    """Two random distributions."""
    rng = np.random.default_rng(seed)
    return Pair(*(softmax(scale * rng.normal(size=outcomes)) for _ in range(2)))


def close_pair(seed: int, distance: float, outcomes: int = 5) -> Pair:
    """A random reference and a policy whose logits are `distance` away in a random direction."""
    rng = np.random.default_rng(seed)
    logits, direction = rng.normal(size=(2, outcomes))
    return Pair(softmax(logits + distance * direction), softmax(logits))


def softmax(logits: Float64) -> Float64:
    """exp(logits) over its sum along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
