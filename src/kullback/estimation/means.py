"""Means over the tokens of given sequences, with errors clustered by group: nothing was drawn from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kullback.arrays import Float64
from kullback.documents import Record, Uncertain, plain
from kullback.errors import InputError, shown
from kullback.estimation.accumulator import estimate
from kullback.estimation.conclusion import jackknifed
from kullback.estimation.intervals import t_quantile
from kullback.estimation.result import Estimate
from kullback.estimators import RAO_BLACKWELL


@dataclass(frozen=True)
class Share:
    """The share of tokens of which something is true, between 0 and 1, with its error.

    Attributes:
        value: the share.
        stderr: its standard error, clustered by group; nan from one cluster.
        skewness: of the clusters' sums.
        clusters: independent clusters.

    Example:
        >>> from kullback.estimation.means import Share
        >>> print(Share(0.7031, 0.0024, 0.0, 40))
        70.31 ± 0.24%
    """

    value: float
    stderr: float
    skewness: float
    clusters: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval (1927), which lies within [0, 1], by Student's t and the tokens that the error is worth.

        A share p with the clustered error s has the error of n = p(1 − p)/s² independent tokens; at p = 0 and p = 1,
        where s is 0 whatever the clusters are, n is their number.

        Raises:
            InputError: a level that is not strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise InputError(f"level={shown(level)} came, but a confidence level lies between 0 and 1, such as 0.95")
        if self.clusters < 2:
            return float("nan"), float("nan")
        spread = self.value * (1.0 - self.value)
        worth = spread / self.stderr**2 if spread > 0 and self.stderr > 0 else float(self.clusters)
        t2 = t_quantile(0.5 + level / 2, self.clusters - 1) ** 2 / worth
        middle, half = self.value + t2 / 2, float(np.sqrt(t2 * spread + t2**2 / 4))
        low, high = (middle - half) / (1 + t2), (middle + half) / (1 + t2)
        # Against rounding, by which a share of 1 lies outside, or beyond 1.
        return max(0.0, min(self.value, low)), min(1.0, max(self.value, high))

    def to_dict(self) -> Record:
        """The record that ``--json`` prints; numbers that are not finite come as None."""
        low, high = self.interval()
        return dict(plain({"value": self.value, "stderr": self.stderr, "low": low, "high": high}))

    def __str__(self) -> str:
        return f"{Uncertain(100 * self.value, 100 * self.stderr)}%"


def mean_by_group(token_kls: Sequence[Float64], groups: Sequence[int]) -> Estimate:
    """Σ KL_t / (number of tokens), nats a token: a ratio of totals with its error clustered by group.

    Args:
        token_kls: exact token KLs, (tokens,) of each sequence, nats.
        groups: the group of each sequence, such as its document.

    Example:
        >>> import numpy as np
        >>> from kullback.estimation.means import mean_by_group
        >>> print(mean_by_group([np.array([0.1, 0.3]), np.array([0.5])], [0, 1]))
        0.30 ± 0.15 nats/token (n=2)
    """
    # Log-probs of 0 under both: neither model drew the text, so no weight and no check of a sampler applies.
    zeros = [np.zeros(len(row)) for row in token_kls]
    return estimate(zeros, zeros, estimator=RAO_BLACKWELL, unit="token", token_kl=list(token_kls), groups=groups)


def share_by_group(flags: Sequence[npt.NDArray[np.bool_]], groups: Sequence[int]) -> Share:
    """The share of tokens whose flag is True, with its error clustered by group.

    Args:
        flags: (tokens,) of each sequence.
        groups: the group of each sequence.

    Example:
        >>> import numpy as np
        >>> from kullback.estimation.means import share_by_group
        >>> print(share_by_group([np.array([True, True]), np.array([True, False])], [0, 1]))
        75 ± 25%
    """
    cell = np.unique(np.asarray(groups), return_inverse=True)[1]
    true = np.bincount(cell, [np.count_nonzero(row) for row in flags]).astype(np.float64)
    tokens = np.bincount(cell, [len(row) for row in flags]).astype(np.float64)
    share = float(true.sum() / tokens.sum())
    return Share(share, *jackknifed(true, tokens, share), clusters=len(tokens))
