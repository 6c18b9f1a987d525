"""One KL over the steps of a run: what is known of the step, and the alarms it raised."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from math import nan
from typing import Any, Literal

import numpy as np

from kullback.arrays import Float64
from kullback.estimation import Accumulator, Estimate, Sequences
from kullback.monitoring.confidence import asymptotic_interval
from kullback.monitoring.detectors import AboveBand, Change
from kullback.monitoring.moments import Moments

Name = Literal["policy", "mismatch"]

WORDS: Mapping[Name, str] = {"policy": "KL(policy‖reference)", "mismatch": "KL(sampler‖policy)"}

ANYTIME = 0.05
"""1 − level of the bounds that are reported; those of alarms follow from their run length."""

HEAVY = 0.5
"""k̂ beyond which a variance may not exist, on which the sequence of means rests."""


@dataclass(frozen=True)
class Alarm:
    """Something that a step gave reason to look at.

    Attributes:
        step: of the run.
        reading: "policy" or "mismatch".
        kind: "band" (above the limit), "change" (the mean moved), "ess" (few sequences carry the weight) or "repeat" (a
            model that was asked twice gave two answers).
        value: the step's KL, nats a sequence, or its share of effective sequences.
        message: a sentence.
    """

    step: int
    reading: str
    kind: Literal["band", "change", "ess", "repeat"]
    value: float
    message: str


class Step:
    """What has come of one step: accumulators, and the sum of every unit (a prompt's rows, or a row by itself)."""

    def __init__(self, estimators: tuple[str, ...]) -> None:
        self.estimators = estimators
        self._sums = {name: Accumulator(estimator=name) for name in estimators}
        self._per_token = Accumulator(estimator=estimators[0], unit="token")
        self._units: dict[Hashable, Moments] = {}
        self._statewise = Moments()

    def update(self, batch: Sequences) -> None:
        """Add sequences; a batch that is refused changes nothing."""
        totals = Accumulator.update_together([*self._sums.values(), self._per_token], batch)
        if batch.token_kl is not None:
            self._statewise += Moments.of(np.where(batch.mask, batch.token_kl, 0.0).sum(axis=1)[batch.mask.any(axis=1)])
        keys = _keys(batch, len(totals), len(self._units))
        for key, total in zip(keys, totals, strict=True):
            self._units[key] = self._units.get(key, Moments()) + Moments(1, float(total))

    def merge(self, other: Step) -> None:
        """Add what another process saw of the same step."""
        for name, accumulator in self._sums.items():
            accumulator.merge(other._sums[name])
        self._per_token.merge(other._per_token)
        self._statewise += other._statewise
        for key, moments in other._units.items():
            # A row by itself is a unit of its own, whatever number it had there.
            mine = ("row", len(self._units)) if isinstance(key, tuple) else key
            self._units[mine] = self._units.get(mine, Moments()) + moments

    @property
    def units(self) -> Float64:
        """The mean of every unit, nats a sequence."""
        return np.array([unit.mean for unit in self._units.values()])

    @property
    def statewise(self) -> float | None:
        """Σ_t KL(q_t‖p_t) at the prefixes as they were drawn, whoever drew them; None without exact token KLs."""
        return float(self._statewise.mean) if self._statewise.n else None

    @cached_property
    def main(self) -> Estimate:
        """Of the first estimator, nats a sequence; asked for when the step is closed."""
        return self._sums[self.estimators[0]].result()

    @cached_property
    def per_token(self) -> Estimate:
        """The same, nats a token."""
        return self._per_token.result()

    @property
    def values(self) -> Mapping[str, float]:
        """By estimator, nats a sequence, and that of the first a token; their errors, which few ask for, cost most."""
        of = {name: accumulator.value for name, accumulator in self._sums.items() if name != self.estimators[0]}
        return {"token": self._per_token.value, self.estimators[0]: self.main.value, **of}


def _keys(batch: Sequences, rows: int, before: int) -> list[Hashable]:
    if batch.groups is None:
        return [("row", before + row) for row in range(rows)]
    return [str(key) for key in batch.groups[batch.mask.any(axis=1)].tolist()]


@dataclass
class Reading:
    """One KL over the steps.

    Attributes:
        name: which.
        run_length: of each alarm where there is nothing to find, in steps.
        limit: nats a sequence that are allowed; None for no alarm of that kind.
        least_ess: the share of effective sequences below which a step is named.
        metrics: of the last step.
        step: the last one.
    """

    name: Name
    run_length: float
    limit: float | None
    least_ess: float
    metrics: dict[str, float] = field(default_factory=dict)
    step: Step | None = None
    change: Change | None = None
    band: AboveBand | None = None
    since: Moments = field(default_factory=Moments)
    first: int = 0

    def close(self, number: int, step: Step) -> list[Alarm]:
        """Judge a step, and keep its metrics."""
        units = step.units
        infinite = int(np.isinf(units).sum())
        units = units[np.isfinite(units)]
        main = step.main
        alarms = [
            *self._infinite(number, infinite, main),
            *self._band(number, units, main),
            *self._change(number, units, main),
            *self._ess(number, main),
        ]
        self.step = step
        self.metrics = self._metrics(step.values, main)
        if step.statewise is not None:
            self.metrics[f"kullback/{self.name}/statewise"] = step.statewise
        self.metrics[f"kullback/{self.name}/alarms"] = float(len(alarms))
        return alarms

    def _infinite(self, number: int, units: int, main: Estimate) -> list[Alarm]:
        """No detector takes these, and they are above any limit."""
        if not units:
            return []
        said = (
            f"{WORDS[self.name]} is infinite: {units} prompts have tokens to which the second law gives no probability"
        )
        return [Alarm(number, self.name, "band", main.value, said)]

    def _band(self, number: int, units: Float64, main: Estimate) -> list[Alarm]:
        if self.limit is None or not main.nonnegative:
            return []
        self.band = self.band or AboveBand(self.limit, self.run_length)
        if not self.band.update(units):
            return []
        said = f"{WORDS[self.name]} is above the limit of {self.limit:g}: {main} in this step"
        return [Alarm(number, self.name, "band", main.value, said)]

    def _change(self, number: int, units: Float64, main: Estimate) -> list[Alarm]:
        self.change = self.change or Change(self.run_length, max(1, units.size))
        before, first = self.since, self.first
        self.since = self.since + Moments.of(units)
        if not self.change.update(units):
            return []
        self.since, self.first = Moments.of(units), number
        tail = f"; its tails are heavy (k̂ {main.khat:.2f}), so the alarm may be false" if main.khat > HEAVY else ""
        said = f"{WORDS[self.name]} has moved: {before.mean:.3g} from step {first} on, {main} in this step{tail}"
        return [Alarm(number, self.name, "change", main.value, said)]

    def _ess(self, number: int, main: Estimate) -> list[Alarm]:
        share = main.ess / main.n
        if not share < self.least_ess:
            return []
        said = (
            f"{main.ess:.0f} of {main.n} sequences carry the weight ({share:.0%}): the sampler is far from the policy"
        )
        return [Alarm(number, self.name, "ess", share, said)]

    def estimate(self, unit: str) -> Estimate | None:
        """Of the last step, by the first of its estimators; None before there is one."""
        if self.step is None:
            return None
        return self.step.main if unit == "sequence" else self.step.per_token

    def _metrics(self, values: Mapping[str, float], main: Estimate) -> dict[str, float]:
        low, high = main.interval()
        units = self.change.units if self.change else 1
        always = asymptotic_interval(self.since, ANYTIME, tightest_at=20 * units)
        own = {
            "stderr": main.stderr,
            "low": low,
            "high": high,
            "token": values["token"],
            "anytime_low": always[0],
            "anytime_high": always[1],
            "ess": main.ess / main.n,
            "khat": main.khat,
            "lower_bound": self.band.bound.bound() if self.band else nan,
            **{name: value for name, value in values.items() if name != "token"},
        }
        return {f"kullback/{self.name}/{name}": float(value) for name, value in own.items()}

    def state(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        change, band = self.change, self.band
        return {
            "since": astuple(self.since),
            "first": self.first,
            "change": change and change.state(),
            "band": band and band.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.since, self.first = Moments(*state["since"]), int(state["first"])
        if state["change"] is not None:
            self.change = Change.restored(self.run_length, state["change"])
        if state["band"] is not None and self.limit is not None:
            self.band = AboveBand.restored(self.limit, self.run_length, state["band"])
