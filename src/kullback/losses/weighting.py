"""The importance weights of an objective's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic

from kullback.arrays import A, cumulative_sum, namespace
from kullback.losses.objectives import Objective
from kullback.losses.rows import Rows
from kullback.weights import Truncation


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
        exponent = self._log_before + self._log_own if self.objective.statewise else self._log_total
        return _tamed(self.rows.xp.exp(exponent), self.truncation)

    @cached_property
    def before(self) -> A:
        """The weight of what is known without it."""
        return _tamed(self.rows.xp.exp(self._log_before), self.truncation)

    def of_token(self, values: A, *, guarded: bool = True) -> A:
        """values at the tokens that count, times the token's weight; unguarded where no value can be infinite."""
        if self.all_one:
            return self.rows.kept(values) if guarded else self.rows.kept_finite(values)
        return self._product(self.token, values, guarded)

    def of_prefix(self, values: A) -> A:
        """values at the tokens that count, times the prefix's weight."""
        return self.rows.kept(values) if self.all_one else self._product(self.before, values, guarded=True)

    def _product(self, weight: A, values: A, guarded: bool) -> A:
        if self.rows.finite and not guarded:
            return self.rows.kept_finite(weight * values)
        # A weight of 0 beats any value, inf too.
        return self.rows.xp.where(self.rows.mask & (weight > 0), weight * values, 0.0)

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
