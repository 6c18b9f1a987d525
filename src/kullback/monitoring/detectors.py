"""When to raise an alarm: each detector says how long it runs, on average, where there is nothing to find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, log
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.monitoring.confidence import BETS, FEWEST, LowerBound, halfwidths, log_mean_exp
from kullback.monitoring.moments import Moments

STARTS = 64
"""Sequences kept at a time; beyond it every second one of the older half is given up: at the cost of delay."""


@dataclass
class Change:
    """The mean is no longer what it was: confidence sequences that began at different steps exclude one another.

    A sequence begins at every step; the alarm is raised when no mean lies within all of them. Without a change each
    leaves out the true mean with probability α at most, so that the average run length is 1/α steps or more.

    Attributes:
        run_length: 1/α, in steps.
        units: expected a step; sequences are tightest after 20 steps.
        starts: number, mean and sum of squared deviations of what came since each start, (3, starts).
        low, high: in which all sequences agree so far.

    Reference: Shekhar & Ramdas, arXiv 2309.09111.
    """

    run_length: float
    units: int
    starts: Float64 = field(default_factory=lambda: np.empty((3, 0)))
    low: float = -inf
    high: float = inf

    def update(self, values: Float64) -> bool:
        """Add a step's units; whether that raises the alarm, after which it begins anew."""
        self.starts = _added(np.append(self.starts, np.zeros((3, 1)), axis=1), Moments.of(values))
        n, mean, squares = self.starts[:, self.starts[0] >= FEWEST]
        if n.size:
            # Few units of a skewed law have too small a deviation just where their mean is too small: with their own,
            # 43% of runs of 200 steps of 16 log-normal units raised a false alarm where 20% may; with the longest's,
            # 0.5%.
            deviation = np.sqrt(squares / (n - 1))
            half = np.maximum(deviation, deviation[0]) * halfwidths(n, 1 / self.run_length, 20 * self.units)
            self.low = max(self.low, float((mean - half).max()))
            self.high = min(self.high, float((mean + half).min()))
        if self.low > self.high:
            self.starts, self.low, self.high = np.empty((3, 0)), -inf, inf
            return True
        if self.starts.shape[1] > STARTS:
            half_of = STARTS // 2
            self.starts = np.delete(self.starts, np.arange(1, half_of, 2), axis=1)
        return False

    def state(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        starts = [[int(n), mean, squares] for n, mean, squares in self.starts.T.tolist()]
        return {"units": self.units, "starts": starts, "low": _finite(self.low), "high": _finite(self.high)}

    @classmethod
    def restored(cls, run_length: float, state: Mapping[str, Any]) -> Change:
        """What gave that state."""
        low, high = (
            default if state[name] is None else state[name] for name, default in (("low", -inf), ("high", inf))
        )
        starts = np.array(state["starts"], dtype=np.float64).reshape(-1, 3).T
        return cls(run_length, state["units"], starts, low, high)


def _added(starts: Float64, step: Moments) -> Float64:
    """`Moments` of every start, (3, starts), with those of a step added: at once, for each step has up to 64."""
    n, mean, squares = starts
    total, gap = n + step.n, step.mean - mean
    of = np.maximum(total, 1)
    return np.stack([total, mean + gap * step.n / of, squares + step.squares + gap**2 * n * step.n / of])


@dataclass
class AboveBand:
    """The mean is above a limit: bets that it is not so have lost too much.

    For units Y ≥ 0 whose conditional means are at most c, every Π(1 + λ(Y_i − c)) with 0 ≤ λ < 1/c is a
    supermartingale. One begins at every step, they are added up (Shiryaev–Roberts), and the alarm is raised at the run
    length: without a step above the limit the average run length is no shorter, in finite samples, whatever the tails.

    Attributes:
        limit: c, nats.
        run_length: of the alarm without a departure, in steps.

    Reference: Shin, Ramdas & Rinaldo, arXiv 2203.03532 (e-detectors); Waudby-Smith et al., arXiv 2210.11133.
    """

    limit: float
    run_length: float
    logs: Float64 = field(default_factory=lambda: np.full(BETS.size, -inf))
    bound: LowerBound = field(init=False)

    def __post_init__(self) -> None:
        self.bound = LowerBound(self.limit, 0.05)

    def update(self, values: Float64) -> bool:
        """Add a step's units; whether that raises the alarm, after which it begins anew."""
        self.bound.update(values)
        gains = np.log1p(BETS[:, None] * (values / self.limit - 1)[None, :]).sum(axis=1)
        self.logs = np.logaddexp(self.logs, 0.0) + gains
        if log_mean_exp(self.logs) < log(self.run_length):
            return False
        self.logs = np.full(BETS.size, -inf)
        self.bound = LowerBound(self.limit, self.bound.alpha)
        return True

    def state(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        bound = self.bound
        logs = [_finite(value) for value in self.logs.tolist()]
        return {"logs": logs, "n": bound.n, "total": bound.total, "squares": bound.squares}

    @classmethod
    def restored(cls, limit: float, run_length: float, state: Mapping[str, Any]) -> AboveBand:
        """What gave that state."""
        band = cls(limit, run_length, np.array([-inf if value is None else value for value in state["logs"]]))
        band.bound.n, band.bound.total, band.bound.squares = (state[name] for name in ("n", "total", "squares"))
        return band


def _finite(value: float) -> float | None:
    """A number as JSON has it, which knows no infinity."""
    return value if isfinite(value) else None
