"""One KL over the steps of a run: what is known of the step, and the alarms it raised."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import copy
from dataclasses import astuple, dataclass, field
from functools import cached_property
from math import nan
from typing import Any, Literal

import numpy as np

from kullback.arrays import Float64
from kullback.estimation import Accumulator, Estimate, Sequences
from kullback.estimation.moments import numbered
from kullback.estimators import member
from kullback.monitoring.confidence import asymptotic_interval
from kullback.monitoring.detectors import AboveBand, Change
from kullback.monitoring.moments import Moments

Name = Literal["policy", "mismatch"]

WORDS: Mapping[Name, str] = {"policy": "KL(policy‖reference)", "mismatch": "KL(sampler‖policy)"}

ANYTIME = 0.05
"""1 − level of the bounds that are reported; those of alarms follow from their run length."""

HEAVY = 0.5
"""k̂ beyond which a variance may not exist, on which the sequence of means rests."""


OF_STEP = ("stderr", "low", "high", "token", "anytime_low", "anytime_high", "ess", "khat", "lower_bound")
"""What a step's metrics are beside its estimates."""


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
    """What has come of one step: accumulators of the first estimator, sums of the others, and every row's summand."""

    def __init__(self, estimators: tuple[str, ...]) -> None:
        self.estimators = estimators
        self._main = Accumulator(estimator=estimators[0])
        self._per_token = Accumulator(estimator=estimators[0], unit="token")
        self._others = dict.fromkeys(estimators[1:], 0.0)
        self._statewise = 0.0
        self._keys: list[Hashable] = []
        self._totals: list[Float64] = []

    @property
    def rows(self) -> int:
        """Sequences with a counted token."""
        return len(self._keys)

    def plus(self, batch: Sequences | None) -> Step:
        """With the sequences of a batch, None where no token of it counts; this one stays as it is."""
        new = self._copy()
        if batch is not None:
            new._add(batch)
        return new

    def _copy(self) -> Step:
        new = copy(self)
        new._main, new._per_token = copy(self._main), copy(self._per_token)
        new._others, new._keys, new._totals = dict(self._others), list(self._keys), list(self._totals)
        return new

    def _add(self, batch: Sequences) -> None:
        others = [member(name) for name in self._others]
        totals, *values = Accumulator.update_together([self._main, self._per_token], batch, beside=others)
        # Of estimators whose error nobody asks for their sum is enough: an accumulator each was a third of the work.
        for name, value in zip(self._others, values, strict=True):
            self._others[name] += float(value.sum())
        if batch.token_kl is not None:
            self._statewise += float(np.where(batch.mask, batch.token_kl, 0.0).sum(dtype=np.float64))
        self._keys += _keys(batch, self.rows)
        self._totals.append(totals)

    def merged(self, other: Step) -> Step:
        """With what another process saw of the same step; both stay as they are."""
        new = self._copy()
        new._main.merge(other._main)
        new._per_token.merge(other._per_token)
        for name, value in other._others.items():
            new._others[name] += value
        new._statewise += other._statewise
        # A row by itself is a unit of its own, whatever number it had there.
        new._keys += [("row", self.rows + i) if isinstance(key, tuple) else key for i, key in enumerate(other._keys)]
        new._totals += other._totals
        return new

    @property
    def units(self) -> Float64:
        """The mean of every unit (a prompt's rows, or a row by itself), nats a sequence."""
        _, unit = numbered(self._keys)
        sums = np.bincount(unit, np.concatenate(self._totals))
        return np.asarray(sums / np.bincount(unit))

    @property
    def statewise(self) -> float | None:
        """Σ_t KL(q_t‖p_t) at the prefixes as they were drawn, whoever drew them; None without exact token KLs."""
        return self._statewise / self.rows if self.estimators[0] == "rao_blackwell" else None

    @cached_property
    def main(self) -> Estimate:
        """Of the first estimator, nats a sequence; asked for when the step is closed."""
        return self._main.result()

    @cached_property
    def per_token(self) -> Estimate:
        """The same, nats a token."""
        return self._per_token.result()

    @property
    def values(self) -> Mapping[str, float]:
        """By estimator, nats a sequence, and that of the first a token; their errors, which few ask for, cost most."""
        others = {name: total / self.rows for name, total in self._others.items()}
        return {"token": self._per_token.value, self.estimators[0]: self.main.value, **others}


def _keys(batch: Sequences, before: int) -> list[Hashable]:
    """The unit of every row that has a counted token; alike on every process that reads the same prompts."""
    filled = batch.mask.any(axis=1)
    if batch.groups is None:
        return [("row", before + row) for row in range(int(filled.sum()))]
    return [str(key) for key in batch.groups[filled].tolist()]


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
        """Judge a step, and keep its metrics: nan where no token counted."""
        if not step.rows:
            names = (*step.estimators, *OF_STEP, *(("statewise",) if step.estimators[0] == "rao_blackwell" else ()))
            self.step = None
            self.metrics = {f"kullback/{self.name}/{name}": nan for name in names}
            self.metrics[f"kullback/{self.name}/alarms"] = 0.0
            return []
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
        bound = self.band.bound.bound() if self.band else nan
        numbers = (main.stderr, low, high, values["token"], *always, main.ess / main.n, main.khat, bound)
        own = dict(zip(OF_STEP, numbers, strict=True)) | {k: v for k, v in values.items() if k != "token"}
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
