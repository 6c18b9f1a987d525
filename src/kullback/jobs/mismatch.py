"""How far what sampled is from the policy that was scored, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kullback.documents import Cell, Interval, Number, Record, Table, plain
from kullback.estimation.accumulator import estimate
from kullback.estimation.result import Estimate
from kullback.estimators import K1, K3
from kullback.rollouts import Rollout, to_sequences


@dataclass(frozen=True)
class Mismatch:
    """KL(sampler‖policy), where something else drew in the policy's place.

    Attributes:
        kl: nats a sequence, from the drawn tokens by k3, whose mean at each prefix is the token KL.
        ess: as many sequences of the policy's own would do, of the weights π/μ of whole sequences.
        sequences: that were drawn.
    """

    kl: Estimate
    ess: float
    sequences: int

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        return dict(plain({"kl": self.kl.to_dict(), "ess": self.ess, "sequences": self.sequences}))

    def table(self) -> Table:
        """What stands on the screen."""
        rows: tuple[tuple[Cell, ...], ...] = (
            ("KL(sampler‖policy), nats a sequence", self.kl.rounded, Interval(*self.kl.interval())),
            (f"effective sequences of {self.sequences:,}", Number(self.ess, ",.1f"), ""),
        )
        return Table(
            title="What sampled, against the policy",
            note="the estimates above are weighted by π/μ, so that they are the policy's",
            columns=("", "value", "95% interval"),
            rows=rows,
            right=("value", "95% interval"),
        )


def mismatch_of(rollouts: Sequence[Rollout]) -> Mismatch | None:
    """Of the rollouts that something else drew in the policy's name; None where the policy drew itself."""
    part = [one for one in rollouts if one.sampled_from == "policy" and one.behavior_logprobs is not None]
    if not part:
        return None
    batch = to_sequences(part)
    assert batch.behavior_logprobs is not None
    kl = estimate(batch.behavior_logprobs, batch.logprobs, batch.mask, estimator=K3, level="token", groups=batch.groups)
    weighed = estimate(
        batch.logprobs,
        batch.ref_logprobs,
        batch.mask,
        estimator=K1,
        level="sequence",
        behavior_logprobs=batch.behavior_logprobs,
        groups=batch.groups,
    )
    return Mismatch(kl, float(weighed.ess), len(part))
