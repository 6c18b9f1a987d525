"""The KL of a comparison between bounds, where a server gave likely words only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from kullback.documents import Cell, Interval, Number, Record, Table, plain
from kullback.estimation.accumulator import estimate
from kullback.estimation.result import Estimate
from kullback.estimators import RAO_BLACKWELL
from kullback.jobs.plans import Role
from kullback.models.listing import TokenBracket
from kullback.rollouts import Rollout, to_sequences

LOWER, UPPER, ESTIMATE = "topk_kl_lower", "topk_kl_upper", "topk_kl_estimate"
"""The names of a sequence's sums in `Rollout.extra`."""


@dataclass(frozen=True)
class Bracketed:
    """A KL in nats a sequence, from the likely words of each place.

    Attributes:
        lower, upper: means of the places' bounds, summed over a sequence; upper is None where nothing bounds it.
        estimate: unbiased: exact on the words that both know, sampled outside of them.
    """

    lower: Estimate
    upper: Estimate | None
    estimate: Estimate

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        found = {
            "lower": self.lower.to_dict(),
            "upper": None if self.upper is None else self.upper.to_dict(),
            "estimate": self.estimate.to_dict(),
        }
        return dict(plain(found))

    def table(self, title: str) -> Table:
        """What stands on the screen."""
        rows: tuple[tuple[Cell, ...], ...] = (
            ("at least", self.lower.rounded, Interval(*self.lower.interval())),
            ("exact on the words, sampled outside", self.estimate.rounded, Interval(*self.estimate.interval())),
            ("at most", "nothing bounds it", "")
            if self.upper is None
            else ("at most", Number(self.upper.value), Interval(*self.upper.interval())),
        )
        return Table(
            title=title,
            note="nats a sequence, from the likely words that a server lists at each place",
            columns=("KL", "value", "95% interval"),
            rows=rows,
            right=("value", "95% interval"),
        )


def sums(bracket: TokenBracket | None) -> Mapping[str, float]:
    """What a rollout keeps of its places' bounds."""
    if bracket is None:
        return {}
    found = {LOWER: bracket.lower, UPPER: bracket.upper, ESTIMATE: bracket.estimate}
    return {name: float(column.sum()) for name, column in found.items()}


def bracketed(rollouts: Sequence[Rollout], role: Role) -> Bracketed | None:
    """Of the rollouts that were sampled from a model; None where a server's words were not asked for."""
    part = [one for one in rollouts if one.sampled_from == role]
    if not part or any(LOWER not in one.extra or one.behavior_logprobs is not None for one in part):
        return None
    upper = None if any(one.extra[UPPER] == inf for one in part) else _mean(part, UPPER)
    return Bracketed(_mean(part, LOWER), upper, _mean(part, ESTIMATE))


def _mean(rollouts: Sequence[Rollout], name: str) -> Estimate:
    # A sum of token KLs is what the Rao-Blackwell estimate is the mean of, with its errors by prompt.
    summed = [replace(one, token_kl=np.eye(1, one.length)[0] * float(one.extra[name])) for one in rollouts]
    batch = to_sequences(summed)
    return estimate(
        batch.logprobs,
        batch.ref_logprobs,
        batch.mask,
        estimator=RAO_BLACKWELL,
        level="token",
        unit="sequence",
        token_kl=batch.token_kl,
        groups=batch.groups,
    )
