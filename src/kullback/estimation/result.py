"""Two kinds of numbers: exact ones, and estimates that carry their error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kullback.displays import Displayed
from kullback.documents import Chart, Document, Record, Uncertain, plain
from kullback.errors import InputError, shown
from kullback.estimation.extremes import Influence
from kullback.estimation.intervals import mean_interval


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
class GivenPrompts:
    """The error of an estimate for the prompts at hand: as if only their samples were drawn anew.

    An evaluation set is such prompts; how they were chosen plays no part, so nothing is said of others. Needs two
    samples a prompt; covers 94% to 96% from four on (92% at two).

    Attributes:
        value: the estimate itself.
        stderr: √(Σ_g n_g/(n_g − 1) Σ_i (e_gi − ē_g)²)/D, e the residuals, D the sum of the divisors.
        skewness: of the sequences' residuals within their prompts.
        n: sequences.
        freedom: degrees of freedom of the error (Satterthwaite).
        nonnegative: whether what was averaged is never below zero.
    """

    value: float
    stderr: float
    skewness: float
    n: int
    freedom: float
    nonnegative: bool = False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval; as `Estimate.interval`, for these prompts.

        Raises:
            InputError: a level that is not strictly between 0 and 1.
        """
        check_level(level)
        low, high = mean_interval(self.value, self.stderr, self.skewness, self.n, freedom=self.freedom, level=level)
        return (max(low, 0.0) if self.nonnegative else low), high


def check_level(level: float) -> None:
    """Hold that a level of confidence lies between 0 and 1.

    Raises:
        InputError: it does not.
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"level={shown(level)} came, but a confidence level lies between 0 and 1, such as 0.95")


@dataclass(frozen=True)
class Estimate(Displayed):
    """A number estimated from samples, with its error and what is wrong with it.

    Attributes:
        value: the estimate, in nats a sequence or nats a token.
        stderr: its standard error for prompts drawn from a population: clustered by prompt where groups were given, by
            the jackknife; nan from one cluster, or where every draw gave the same number.
        skewness: of the summands, which makes intervals asymmetric.
        n: sequences it rests on.
        ess: effective number of sequences, (Σρ)²/Σρ² of the importance weights; n on-policy.
        khat: PSIS k̂ of the ratio p/q at the estimator's level, of what is averaged and, off-policy, of the
            importance weights: the largest; nan from fewer than 30 values.
        clusters: independent clusters, prompts or sequences.
        estimator, level, unit: what was computed.
        coefficients: of the fitted controls, by name, from the whole batch (λ for the control variate).
        warnings: sentences; empty when there is nothing to warn of.
        nonnegative: whether what was averaged is never below zero.
        given_prompts: the error for these prompts, with `stderr` and `interval` of its own; None without groups, with
            one sample a prompt, and beyond 4,096 prompts.
        influential: the sequences that move the estimate most, largest first.
        freedom: degrees of freedom of `stderr`, where they are fewer than clusters − 1: what token values leave is
            known from few sequences.

    Example:
        >>> import kullback as kb
        >>> found = kb.estimate([[-0.5], [-0.7], [-0.1]], [[-0.7], [-0.6], [-0.3]], estimator="k1")
        >>> print(found)
        0.10 ± 0.10 nats/sequence (n=3)
        >>> round(found.value, 6), found.n, found.influential[0].row
        (0.1, 3, 1)
        >>> print(found.warnings[0])
        the error rests on 3 sequences: fewer than 30 show no heavy tail, and the interval may cover less than it says
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
    given_prompts: GivenPrompts | None = None
    influential: tuple[Influence, ...] = ()
    freedom: float = np.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval for prompts drawn from a population, by Student's t.

        Corrected for skewness (Hall 1992), and no narrower than an interval of the logarithm where the value is well
        above 0; from 0 on where what is averaged cannot be negative.

        Raises:
            InputError: a level that is not strictly between 0 and 1.
        """
        check_level(level)
        if np.isinf(self.value):
            return (0.0 if self.nonnegative else -np.inf), np.inf
        if self.clusters < 2 or np.isnan(self.stderr):
            return float("nan"), float("nan")
        freedom = min(self.clusters - 1.0, self.freedom)
        low, high = mean_interval(self.value, self.stderr, self.skewness, self.clusters, freedom=freedom, level=level)
        return (max(low, 0.0) if self.nonnegative else low), high

    def to_dict(self) -> dict[str, Any]:
        """The record that ``--json`` prints; numbers that are not finite come as None."""
        low, high = self.interval()
        given = self.given_prompts
        given_low, given_high = (None, None) if given is None else given.interval()
        record = {
            "estimator": self.estimator,
            "level": self.level,
            "unit": self.unit,
            "value": self.value,
            "stderr": self.stderr,
            "low": low,
            "high": high,
            "stderr_given_prompts": None if given is None else given.stderr,
            "low_given_prompts": given_low,
            "high_given_prompts": given_high,
            "n": self.n,
            "clusters": self.clusters,
            "ess": self.ess,
            "khat": self.khat,
            "coefficients": dict(self.coefficients),
            "influential": [asdict(influence) for influence in self.influential],
            "warnings": list(self.warnings),
        }
        return dict(plain(record))

    def document(self) -> Document:
        """What a notebook shows: the value with both errors, and everything there is to warn of."""
        from kullback.estimation.pages import page

        return page(self)

    def records(self) -> Sequence[Record]:
        """One record, as ``--json`` prints it."""
        return [self.to_dict()]

    def chart(self) -> Chart:
        """The value with its intervals, for prompts drawn anew and for these."""
        from kullback.estimation.pages import interval_chart

        return interval_chart([self], [self.estimator])

    @property
    def rounded(self) -> Uncertain:
        """The value with its error, as every face shows them."""
        return Uncertain(self.value, self.stderr)

    def __str__(self) -> str:
        return f"{self.rounded} nats/{self.unit} (n={self.n})"
