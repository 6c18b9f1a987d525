"""What is finished of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from kullback.errors import InputError
from kullback.jobs.hotspots import Decode, Hotspots
from kullback.jobs.plans import Plan, Role
from kullback.jobs.progress import Progress
from kullback.jobs.worker import Finished
from kullback.models.outside import Outside, outside_of
from kullback.rollouts import Rollout


@dataclass
class Run:
    """What is finished of a plan: it grows batch by batch, and runs of one plan merge.

    Attributes:
        plan: what was asked for.
        rollouts: of the finished batches.
        hotspots: where the models differ most on the policy's rollouts; empty where there are no exact token KLs.
        tokens: drawn so far, in batches that are not finished too.
        outside: what each model gives to tokens that the other lacks.
        words: the text of every drawn token, by its id.
    """

    plan: Plan
    rollouts: list[Rollout] = field(default_factory=list)
    hotspots: Hotspots = field(default_factory=Hotspots)
    tokens: int = 0
    outside: dict[Role, Outside] = field(default_factory=lambda: {"policy": Outside(), "reference": Outside()})
    words: dict[int, str] = field(default_factory=dict)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(len(self.rollouts), self.plan.total, self.tokens)

    def keep(self, finished: Finished, decode: Decode) -> None:
        """Add a finished batch."""
        self.rollouts += finished.rollouts
        # Row by row rather than by adding a batch's own hotspots: so the sums do not round by the batch size.
        for rollout, scores in zip(finished.rollouts, finished.scores, strict=True):
            for token in {*(rollout.tokens or ())} - self.words.keys():
                self.words[token] = decode([token])
            other: Role = "reference" if rollout.sampled_from == "policy" else "policy"
            self.outside[rollout.sampled_from] += outside_of([scores.outside])
            self.outside[other] += outside_of([scores.ref_outside])
            if rollout.sampled_from == "policy" and scores.top is not None and scores.ref_top is not None:
                self.hotspots.add(rollout, scores.top, scores.ref_top, decode)

    def merge(self, other: Run) -> Run:
        """These batches followed by those that another run of the same plan finished.

        Raises:
            InputError: runs of two plans.
        """
        if self.plan != other.plan:
            raise InputError("runs of two plans came, but only what one plan asked for can be put together")
        return Run(
            plan=self.plan,
            rollouts=[*self.rollouts, *other.rollouts],
            hotspots=self.hotspots + other.hotspots,
            tokens=self.tokens + other.tokens,
            outside={role: found + other.outside[role] for role, found in self.outside.items()},
            words={**self.words, **other.words},
        )
