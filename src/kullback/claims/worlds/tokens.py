"""Sequences of a few tokens in closed form: without memory and without end, or of two binary tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.claims.worlds.pairs import Pair


@dataclass(frozen=True)
class Memoryless:
    """A language model that draws every token from the same distribution until the first, the end, comes."""

    q: Float64
    p: Float64

    @property
    def token(self) -> Pair:
        """The distributions of one token."""
        return Pair(self.q, self.p)

    @property
    def kl(self) -> float:
        """KL(q‖p) of sequences: KL a token times the mean length 1/q(end)."""
        return self.token.kl / float(self.q[0])

    def variance(self, values: Float64) -> float:
        """Var Σ_t k_t of k by token, from the end token's part, the others' and their number, which is geometric."""
        # Given how many go on, their sum has that many times the variance and the mean of one: add up both parts.
        end = float(self.q[0])
        rest = Pair(self.q[1:] / (1 - end), self.p[1:])
        others = (1 - end) / end * rest.variance(values[1:])
        return others + (1 - end) / end**2 * rest.mean(values[1:]) ** 2

    @property
    def growth(self) -> float:
        """Σ p²/q over the tokens that do not end: E[r²] of sequences is infinite from 1 on."""
        return float(np.sum(self.p[1:] ** 2 / self.q[1:]))


ENDLESS = Memoryless(np.array([0.1, 0.45, 0.45]), np.array([0.05, 0.6, 0.35]))
"""KL 0.529493 nats a sequence of 10 tokens; the ratio of sequences has no variance."""


@dataclass(frozen=True)
class TwoSteps:
    """Two binary tokens: (q(1), p(1)) at the first, after a 0 and after a 1. All four sequences, in closed form."""

    first: tuple[float, float]
    after_zero: tuple[float, float]
    after_one: tuple[float, float]

    def _column(self, model: int) -> Float64:
        """Log-probs of both tokens of 00, 01, 10, 11 under the policy (0) or the reference (1)."""
        places = [(self.first, nxt) for nxt in (self.after_zero, self.after_one) for _ in range(2)]
        tokens = [(first, second) for first in (0, 1) for second in (0, 1)]
        chosen = [
            [place[model] if token else 1 - place[model] for place, token in zip(nodes, drawn, strict=True)]
            for nodes, drawn in zip(places, tokens, strict=True)
        ]
        column: Float64 = np.log(np.array(chosen))
        return column

    @property
    def chance(self) -> Float64:
        """Probability of each sequence under q."""
        chance: Float64 = np.exp(self._column(0).sum(axis=1))
        return chance

    @property
    def log_ratio(self) -> Float64:
        """ℓ of both tokens, (4, 2)."""
        ratio: Float64 = self._column(0) - self._column(1)
        return ratio

    @property
    def token_kl(self) -> Float64:
        """Exact token KLs at both prefixes, (4, 2)."""
        first, zero, one = (
            Pair(np.array([1 - q, q]), np.array([1 - p, p])).kl
            for q, p in (self.first, self.after_zero, self.after_one)
        )
        return np.array([[first, zero], [first, zero], [first, one], [first, one]])

    def mean(self, values: Float64) -> float:
        """Expectation under q."""
        return float(self.chance @ values)

    def covariance(self, a: Float64, b: Float64) -> float:
        """Covariance under q."""
        return self.mean((a - self.mean(a)) * (b - self.mean(b)))

    def spread(self, gradients: Float64) -> float:
        """Trace of the covariance of gradients, (4, 3)."""
        return sum(self.covariance(column, column) for column in gradients.T)

    @property
    def scores(self) -> Float64:
        """∇log q of both tokens in the logit of a 1 at the three places, (4, 2, 3)."""
        first, zero, one = self.first[0], self.after_zero[0], self.after_one[0]
        return np.array(
            [
                [[-first, 0, 0], [0, -zero, 0]],
                [[-first, 0, 0], [0, 1 - zero, 0]],
                [[1 - first, 0, 0], [0, 0, -one]],
                [[1 - first, 0, 0], [0, 0, 1 - one]],
            ]
        )

    @property
    def token_kl_gradients(self) -> Float64:
        """∇Σ_t KL_t with the prefixes held fixed, (4, 3)."""
        first, zero, one = (
            q * (1 - q) * (math.log(q / (1 - q)) - math.log(p / (1 - p)))
            for q, p in (self.first, self.after_zero, self.after_one)
        )
        return np.array([[first, zero, 0], [first, zero, 0], [first, 0, one], [first, 0, one]])


UNLUCKY = TwoSteps((0.5, 0.75), (0.5, 0.5), (0.99, 0.01))
"""Exact token KLs are noisier than k1 here: 5.070 against 3.316."""
