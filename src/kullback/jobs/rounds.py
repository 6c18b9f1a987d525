"""Rounds of one run: once a plan is finished, how many more samples of each prompt are drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kullback.estimation.result import Estimate
from kullback.jobs.plans import Plan
from kullback.jobs.run import Run
from kullback.jobs.wishes import Wish, further
from kullback.jobs.worker import Models


@dataclass
class Rounds:
    """What `run_here` asks after each round, until the wish is met or its time is used.

    Attributes:
        asked: the wish.
        models: that draw.
        quote: the estimate of a run that is quoted, in nats a sequence.
        started: when the first sequence was begun, the pilot's included, by `time.perf_counter`.
        first: samples of each prompt of the first round; 0 until it is finished.
        begun: when the round that is running was begun.
    """

    asked: Wish
    models: Models
    quote: Callable[[Run], Estimate]
    started: float
    first: int = field(default=0, init=False)
    begun: float = field(init=False)
    _drawn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.begun = time.perf_counter()

    def __call__(self, run: Run) -> Plan | None:
        """The plan with another round; None where there is enough."""
        plan, now = run.plan, time.perf_counter()
        self.first = self.first or plan.samples
        pace, self._drawn = (now - self.begun) / (plan.samples - self._drawn), plan.samples
        found = None if self.asked.stderr is None else self.quote(run)
        self.begun = time.perf_counter()
        samples = further(
            self.asked,
            found,
            samples=plan.samples,
            elapsed=self.begun - self.started,
            pace=pace,
            prompts=plan.total // plan.samples,
        )
        return plan.grown(samples, self.models.mixes_lengths) if samples > plan.samples else None
