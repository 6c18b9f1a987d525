"""The importance weights of an objective's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic

from kullback.arrays import A, cumulative_sum, equals, namespace
from kullback.estimators import K1, Estimator
from kullback.losses.objectives import Objective
from kullback.losses.rows import Rows
from kullback.weights import Truncation

FAR = 64.0
"""Nats from which a ratio of the other model to the objective's measure is multiplied by its weight as logarithms: its
exponential still fits, and beside it (6e27) the rest of an estimator is nothing."""


@dataclass(frozen=True)
class Weights(Generic[A]):
    """What an objective weights the tokens by, (batch, time); computed only where it is asked for."""

    rows: Rows[A]
    objective: Objective
    truncation: Truncation | None

    @property
    def all_one(self) -> bool:
        """Whether the objective's measure is the one that drew the tokens."""
        return self.rows.behavior is None and self.objective.reverse

    @cached_property
    def token(self) -> A:
        """The weight of what is known with the token."""
        return _tamed(self.rows.xp.exp(self._log_token), self.truncation)

    @cached_property
    def before(self) -> A:
        """The weight of what is known without it."""
        return _tamed(self.rows.xp.exp(self._log_before), self.truncation)

    def of_token(self, values: A, *, guarded: bool = True) -> A:
        """values at the tokens that count, times the token's weight; unguarded where no value can be infinite."""
        if self.all_one:
            return self.rows.kept(values) if guarded else self.rows.kept_finite(values)
        return self._product(self.token, values, guarded)

    def of_gap(self, kernel: Estimator, gap: A) -> A:
        """kernel(gap) at the tokens that count, times the token's weight.

        Where the objective's measure hardly gives a token, its weight is e^−100, say, and the other model's ratio to it
        e^100. Their product is what the other model is weighted by, and belongs to the mean, though neither may fit;
        where the measure excludes the token they are 0 and ∞.
        """
        if self.all_one or kernel is K1:
            return self.of_token(kernel.fn(gap), guarded=kernel is not K1)
        xp = self.rows.xp
        slope = self._slope(kernel, gap)
        far = (gap < -FAR) & (self._log_token < 0.0) & ~equals(slope, 0.0)
        if self.rows.poison is None and not bool(xp.any(far)):
            return self.of_token(kernel.fn(gap))
        near = self.of_token(kernel.fn(xp.where(far, 0.0 * slope, gap)))
        other = self.rows.log_ratio(self.rows.reference if self.objective.reverse else self.rows.policy)
        product = slope * self._left(xp.exp(xp.where(far, self._log_before + other, 0.0 * slope)))
        return near + self.rows.kept(xp.where(far, product, 0.0))

    def _slope(self, kernel: Estimator, like: A) -> A:
        """`Estimator.slope` in the library of the log-probs, which can be traced, (1, 1)."""
        far = self.rows.xp.zeros_like(like[:1, :1]) - FAR
        return kernel.fn(far) * self.rows.xp.exp(far)

    def _left(self, values: A) -> A:
        """What taming leaves of values whose weights are below 1."""
        if self.truncation is None:
            return values
        xp, weight = self.rows.xp, self.rows.xp.exp(self._log_token)
        if self.truncation.self_normalised:
            return values / xp.mean(weight, axis=0, keepdims=True)
        small = (weight > 0) & (weight < 1)
        share = self.truncation.fn(weight) / xp.where(small, weight, 1.0)
        return values * xp.where(small, share, 1.0)

    def of_prefix(self, values: A) -> A:
        """values at the tokens that count, times the prefix's weight."""
        return self.rows.kept(values) if self.all_one else self._product(self.before, values, guarded=True)

    def _product(self, weight: A, values: A, guarded: bool) -> A:
        if self.rows.finite and not guarded:
            return self.rows.kept_finite(weight * values)
        # A weight of 0 beats any value, inf too.
        return self.rows.xp.where(self.rows.mask & (weight > 0), weight * values, 0.0)

    @property
    def _log_token(self) -> A:
        return self._log_before + self._log_own if self.objective.statewise else self._log_total

    @property
    def _log_own(self) -> A:
        return self.rows.log_ratio(self.rows.policy if self.objective.reverse else self.rows.reference)

    @cached_property
    def _log_total(self) -> A:
        return cumulative_sum(self.rows.log_ratio(self.rows.policy) if self.objective.statewise else self._log_own)

    @cached_property
    def _log_before(self) -> A:
        # Shifted, not total − own: both are −inf once the measure has excluded a token.
        total = self._log_total
        return self.rows.xp.concat([self.rows.xp.zeros_like(total[:, :1]), total[:, :-1]], axis=-1)


def _tamed(weight: A, truncation: Truncation | None) -> A:
    if truncation is None:
        return weight
    weight = truncation.fn(weight)
    if truncation.self_normalised:
        xp = namespace(weight)
        return weight / xp.mean(weight, axis=0, keepdims=True)
    return weight
