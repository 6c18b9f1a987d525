"""Two kinds of numbers: exact ones, and estimates that carry their error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kullback.documents import Uncertain, plain
from kullback.errors import InputError
from kullback.estimation.intervals import skewed_interval


@dataclass(frozen=True)
class Exact:
    """A number computed without sampling.

    Example:
        >>> from kullback import Exact
        >>> print(Exact(0.192745, "nats/sequence"))
        0.1927 nats/sequence (exact)
    """

    value: float
    unit: str = "nats/sequence"

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit} (exact)"

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Estimate:
    """A number estimated from samples, with its error and what is wrong with it.

    Attributes:
        value: the estimate, in nats a sequence or nats a token.
        stderr: its standard error, clustered by prompt where groups were given; nan from one cluster.
        skewness: of the summands, which makes intervals asymmetric.
        n: sequences it rests on.
        ess: effective number of sequences, (Σρ)²/Σρ² of the importance weights; n on-policy.
        khat: PSIS k̂ of the ratio p/q at the estimator's level, of what is averaged and, off-policy, of the
            importance weights: the largest; nan from fewer than 25 values.
        clusters: independent clusters, prompts or sequences.
        estimator, level, unit: what was computed.
        coefficients: of the fitted controls, by name, from the whole batch (λ for the control variate).
        warnings: sentences; empty when there is nothing to warn of.
        nonnegative: whether what was averaged is never below zero.

    Example:
        >>> import kullback as kb
        >>> found = kb.estimate([[-0.5], [-0.7], [-0.1]], [[-0.7], [-0.6], [-0.3]], estimator="k1")
        >>> print(found)
        0.10 ± 0.10 nats/sequence (n=3)
        >>> round(found.value, 6), found.n, found.warnings
        (0.1, 3, ())
    """

    value: float
    stderr: float
    skewness: float
    n: int
    ess: float
    khat: float
    clusters: int
    estimator: str
    level: str
    unit: str
    coefficients: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    nonnegative: bool = False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval by Student's t, corrected for skewness (Hall 1992).

        Raises:
            InputError: a level that is not strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise InputError(f"level={level!r} came, but a confidence level lies between 0 and 1, such as 0.95")
        if np.isinf(self.value):
            return (0.0 if self.nonnegative else -np.inf), np.inf
        if self.clusters < 2:
            return float("nan"), float("nan")
        return skewed_interval(self.value, self.stderr, self.skewness, self.clusters, level)

    def to_dict(self) -> dict[str, Any]:
        """The record that ``--json`` prints; numbers that are not finite come as None."""
        low, high = self.interval()
        record = {
            "estimator": self.estimator,
            "level": self.level,
            "unit": self.unit,
            "value": self.value,
            "stderr": self.stderr,
            "low": low,
            "high": high,
            "n": self.n,
            "clusters": self.clusters,
            "ess": self.ess,
            "khat": self.khat,
            "coefficients": dict(self.coefficients),
            "warnings": list(self.warnings),
        }
        return dict(plain(record))

    @property
    def rounded(self) -> Uncertain:
        """The value with its error, as every face shows them."""
        return Uncertain(self.value, self.stderr)

    def __str__(self) -> str:
        return f"{self.rounded} nats/{self.unit} (n={self.n})"
