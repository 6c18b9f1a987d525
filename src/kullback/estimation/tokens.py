"""The counted tokens of consecutive sequences, end to end, and the weights that they carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.fused import FusedSums, WeightedSums, beyond, fused_sums, weighted_sums
from kullback.estimation.gaps import exp_gap
from kullback.estimation.ragged import Ragged
from kullback.weights import Truncation

LARGEST = 700.0
"""Beyond it exp overflows, which has words of its own."""

LARGEST_LOG_WEIGHT = 200.0
"""Beyond it, 7e86, the cubes of importance weights, which errors are made of, leave float64."""


class NotFlatError(Exception):
    """Something infinite, which the padded way has words for."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Importance weights of tokens, as in `Block`.

    Attributes:
        weight, before: of what is known with and without the token itself, (tokens,).
        whole, log_weight: of the whole sequence, (rows,).
    """

    weight: Float64
    before: Float64
    whole: Float64
    log_weight: Float64

    @classmethod
    def of(cls, steps: Float64, starts: np.ndarray, truncation: Truncation | None) -> Weights:
        """From log q − log μ of every token.

        Raises:
            NotFlatError: weights beyond all bounds.
        """
        ends = np.append(starts[1:], len(steps)) - 1
        log_weight = np.add.reduceat(steps, starts)
        # Each sequence begins by taking back what the one before it came to, so that one sum runs through all.
        steps[starts[1:]] -= log_weight[:-1]
        total = np.cumsum(steps)
        if not total.max() <= LARGEST_LOG_WEIGHT:
            raise NotFlatError
        weight = np.exp(total)
        before = np.empty_like(weight)
        before[1:] = weight[:-1]
        before[starts] = 1.0
        if truncation is not None:
            weight, before = truncation.fn(weight), truncation.fn(before)
        whole = weight[ends]
        if truncation is not None and truncation.self_normalised:
            weight = before = np.repeat(whole, np.diff(np.append(starts, len(steps))))
        return cls(weight, before, whole, log_weight)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Counted tokens, (tokens,), of sequences that have one.

    Attributes:
        q, p: log-probs, of any float dtype.
        starts: where each sequence begins, (rows,).
        kl, mass: the token KLs and the reference's mass, as in `Ragged`; None where not known.
        mu: log-probs of what drew the tokens; None where the policy did, and all weights are 1.
        truncation: of the weights.
    """

    q: np.ndarray
    p: np.ndarray
    starts: np.ndarray
    kl: Float64 | None = None
    mass: Float64 | None = None
    mu: np.ndarray | None = None
    truncation: Truncation | None = None

    @classmethod
    def of(cls, ragged: Ragged, low: int, high: int, truncation: Truncation | None) -> Tokens:
        """Those of the sequences from number `low` to before `high`, one of which has a counted token.

        Raises:
            NotFlatError: something infinite, or an exponential that overflows.
        """
        part = slice(int(ragged.offsets[low]), int(ragged.offsets[high]))
        ends = ragged.offsets[low : high + 1] - ragged.offsets[low]
        counts = None if ragged.mask is None else ragged.mask[part]

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[part] if counts is None else values[part][counts]

        q, p = of(ragged.logprobs), of(ragged.ref_logprobs)
        kl, mass, behavior = (of(each) for each in (ragged.token_kl, ragged.ref_mass, ragged.behavior_logprobs))
        if counts is not None:
            ends = np.concatenate([[0], np.cumsum(counts)])[ends]
        starts = ends[:-1][np.diff(ends) > 0]
        assert q is not None
        assert p is not None
        found = cls(
            q=q,
            p=p,
            starts=starts,
            kl=None if kl is None else kl.astype(np.float64),
            mass=None if mass is None else mass.astype(np.float64),
            mu=behavior,
            truncation=truncation,
        )
        found._check()
        return found

    def _check(self) -> None:
        if not (np.isfinite(self.x_sums).all() and self.largest.max() < LARGEST):
            raise NotFlatError
        of = self.weighted
        if of is None:
            _ = self.weights
        elif not (np.isfinite(of.log_weight).all() and of.largest.max() <= LARGEST_LOG_WEIGHT):
            raise NotFlatError

    def __len__(self) -> int:
        return len(self.q)

    @cached_property
    def x(self) -> Float64:
        """log p − log q."""
        return _difference(self.p, self.q)

    @cached_property
    def fused(self) -> FusedSums | None:
        """The sums that compiled code has made; None where tokens carry weights, and where there is no such code."""
        return fused_sums(self.q, self.p, self.starts) if self.mu is None else None

    @cached_property
    def weighted(self) -> WeightedSums | None:
        """The same where tokens carry weights that nothing tames."""
        if self.mu is None or self.truncation is not None or self.kl is not None or self.mass is not None:
            return None
        return weighted_sums(self.q, self.p, self.mu, self.starts)

    @cached_property
    def weights(self) -> Weights | None:
        """One by one; None where all are 1."""
        return None if self.mu is None else Weights.of(_difference(self.q, self.mu), self.starts, self.truncation)

    @cached_property
    def _known(self) -> FusedSums | WeightedSums | None:
        return self.fused if self.mu is None else self.weighted

    @cached_property
    def log_ratio(self) -> Float64:
        """ℓ."""
        return -self.x

    @cached_property
    def gap(self) -> Float64:
        """e^x − 1 − x."""
        return exp_gap(self.x)

    @cached_property
    def excess(self) -> Float64:
        """r − 1 = e^x − 1."""
        return self.gap + self.x

    @cached_property
    def gap_sums(self) -> Float64:
        """Σ gap over each sequence, (rows,)."""
        return self.sums(self.gap) if self.fused is None else self.fused.gap

    @cached_property
    def x_sums(self) -> Float64:
        """Σ x over each sequence, (rows,)."""
        return self.sums(self.x) if self._known is None else self._known.x

    @cached_property
    def half_squares(self) -> Float64:
        """Σ x²/2 over each sequence, (rows,)."""
        return self.sums(0.5 * self.x * self.x) if self.fused is None else 0.5 * self.fused.squares

    @cached_property
    def excess_squares(self) -> Float64:
        """Σ (e^x − 1)² over each sequence, (rows,)."""
        return self.sums(self.excess * self.excess) if self.fused is None else self.fused.excess_squares

    @cached_property
    def largest(self) -> Float64:
        """The largest x of each sequence, (rows,)."""
        return np.asarray(np.maximum.reduceat(self.x, self.starts)) if self._known is None else self._known.most

    def above(self, floor: float) -> Float64:
        """Every x beyond a number; sequences whose largest is not are not looked at."""
        if self._known is not None:
            return beyond(self.q, self.p, self.starts, np.flatnonzero(self._known.most > floor), floor)
        return self.x[self.x > floor]

    @cached_property
    def length(self) -> Float64:
        """Counted tokens of each sequence, (rows,)."""
        return np.diff(np.append(self.starts, len(self))).astype(np.float64)

    @property
    def token_kl(self) -> Float64:
        """KL(q_t‖p_t); 0 where it is not known."""
        return np.zeros_like(self.x) if self.kl is None else self.kl

    @property
    def ref_mass(self) -> Float64:
        """The reference's probability of the tokens that the policy does not exclude."""
        return np.ones_like(self.x) if self.mass is None else self.mass

    @property
    def weight(self) -> Float64:
        """ρ_{1:t}."""
        return np.ones_like(self.x) if self.weights is None else self.weights.weight

    @property
    def before(self) -> Float64:
        """ρ_{1:t−1}."""
        return np.ones_like(self.x) if self.weights is None else self.weights.before

    def sums(self, values: Float64) -> Float64:
        """Σ over each sequence, (rows,)."""
        return np.asarray(np.add.reduceat(values, self.starts))


def _difference(first: np.ndarray, second: np.ndarray) -> Float64:
    """first − second in float64; a cast of its own takes half the time of one within the subtraction."""
    found = first.astype(np.float64)
    found -= second
    return found
