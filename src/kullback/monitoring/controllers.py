"""KL coefficients that follow an estimate towards a target, in its unit.

A controller is fed an `Estimate` of the KL after each batch, and returns the coefficient β of the
next. The target's unit is an argument: fed nats a token where the target is of nats a sequence, a controller drives
the KL to the mean length times its target, which three trainers do (docs/controllers.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import copysign, inf, isfinite
from typing import Any, Literal, get_args

from kullback.errors import InputError, shown
from kullback.estimation import Estimate, Exact
from kullback.estimation.result import check_level

__all__ = ["Adaptive", "Controller", "Dual", "ProportionalIntegral"]

TargetUnit = Literal["token", "sequence"]

SCHEMA = 1
"""The version of what `state` returns."""


@dataclass
class Controller(ABC):
    """What all have in common: a target with its unit, and bounds.

    Attributes:
        coefficient: β, of the next batch.
        target: the KL that is wanted, in nats a `unit`.
        unit: "token" or "sequence".
        level: of the interval that has to lie on one side of the target for β to move, such as 0.95; None to follow
            every estimate, which holds a budget better (docs/controllers.md): small steps average the noise
            themselves, and what an interval passes over includes every small excess.
        least, most: what β is kept between.
        updates, held: estimates that came, and those at which β stayed because their interval held the target.

    Example:
        >>> import kullback as kb
        >>> controller = kb.controllers.Adaptive(0.1, 6.0, "sequence")
        >>> isinstance(controller, kb.controllers.Controller), controller.coefficient, controller.unit
        (True, 0.1, 'sequence')
    """

    coefficient: float
    target: float
    unit: TargetUnit
    level: float | None = field(default=None, kw_only=True)
    least: float = field(default=0.0, kw_only=True)
    most: float = field(default=inf, kw_only=True)
    updates: int = field(default=0, init=False)
    held: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.unit not in get_args(TargetUnit):
            raise InputError(f"unit={shown(self.unit)} came, but a target is of nats a 'token' or nats a 'sequence'")
        if self.level is not None:
            check_level(self.level)
        _check("target", self.target, "a KL of at least 0")
        _check("least", self.least, "a coefficient of at least 0")
        if not self.least <= self.coefficient <= self.most:
            raise InputError(
                f"coefficient={self.coefficient:g} came, but it has to lie between least={self.least:g} and "
                f"most={self.most:g}"
            )

    def update(self, estimate: Estimate | Exact) -> float:
        """The coefficient after an estimate of the KL.

        Where the interval holds the target, or is not known, the estimate is counted in `held` and β stays.

        Raises:
            InputError: no estimate, one in another unit, or one that is not finite; β is then what it was.
        """
        low, value, high = self._read(estimate)
        self.updates += 1
        if not (low > self.target or high < self.target):
            self.held += 1
            return self.coefficient
        self.coefficient = min(max(self._next(value - self.target), self.least), self.most)
        return self.coefficient

    def state(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {
            "schema": SCHEMA,
            "kind": type(self).__name__,
            "unit": self.unit,
            "target": self.target,
            **{name: getattr(self, name) for name in self._kept},
        }

    def restore(self, state: Mapping[str, Any]) -> Controller:
        """Continue from what `state` returned on a controller of the same kind and target; returns this one.

        Raises:
            InputError: the state of another kind, of another target, or none.
        """
        wanted = {"schema": SCHEMA, "kind": type(self).__name__, "unit": self.unit, "target": self.target}
        for name, value in wanted.items():
            if not isinstance(state, Mapping) or state.get(name) != value:
                got = state.get(name) if isinstance(state, Mapping) else state
                raise InputError(
                    f"a state with {name}={shown(got)} came, but {shown(value)} is needed: restore it to a controller "
                    "that was made as the one it is of"
                )
        if missing := [name for name in self._kept if name not in state]:
            raise InputError(f"a state without {missing[0]} came: pass what state() returned")
        for name in self._kept:
            setattr(self, name, state[name])
        return self

    @property
    def _kept(self) -> tuple[str, ...]:
        return ("coefficient", "updates", "held")

    @abstractmethod
    def _next(self, error: float) -> float:
        """The coefficient after an error in nats, before it is kept within its bounds."""

    def _read(self, estimate: Estimate | Exact) -> tuple[float, float, float]:
        """The value, and the interval that decides whether it is followed."""
        if not isinstance(estimate, Estimate | Exact):
            raise InputError(
                f"{shown(estimate)} came, but an Estimate is followed, which has a unit and an error (kb.estimate, "
                "KLMonitor.estimate); of a number that is known exactly pass kb.Exact(value, 'nats/sequence')"
            )
        unit = estimate.unit.removeprefix("nats/")
        if unit != self.unit:
            raise InputError(
                f"an estimate in nats a {unit} came, but the target of {self.target:g} is in nats a {self.unit}: "
                f"estimate with unit={self.unit!r}, or give the target in nats a {unit}"
            )
        if not isfinite(estimate.value):
            raise InputError(f"an estimate of {estimate.value} came: no coefficient follows from it")
        if self.level is None or isinstance(estimate, Exact):
            return estimate.value, estimate.value, estimate.value
        low, high = estimate.interval(self.level)
        return low, estimate.value, high


@dataclass
class Adaptive(Controller):
    """Ziegler's rule: β ← β·(1 + gain·clip((KL − target)/target, ±clip)).

    A target of 0 is never divided by: the error is then `clip` as soon as the KL is above 0.

    Args:
        coefficient, target, unit, level, least, most: as in `Controller`.
        gain: K_β; batches over which β grows by a factor of e at full error are 1/(gain·clip).
        clip: the largest relative error that counts.

    Raises:
        InputError: a unit that is none, a target or a gain below 0, bounds that do not hold the coefficient.

    Source: Ziegler et al. 2019, “Fine-Tuning Language Models from Human Preferences”, section 2.2 (gain 0.1, clip 0.2).

    Example:
        >>> import kullback as kb
        >>> controller = kb.controllers.Adaptive(0.1, 6.0, "sequence")
        >>> round(controller.update(kb.Exact(12.0, "nats/sequence")), 6)
        0.102
    """

    gain: float = field(default=0.1, kw_only=True)
    clip: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("gain", self.gain, "a gain of at least 0")
        _check("clip", self.clip, "a bound of at least 0")

    def _next(self, error: float) -> float:
        relative = error / self.target if self.target > 0 else copysign(inf, error)
        return self.coefficient * (1.0 + self.gain * min(max(relative, -self.clip), self.clip))


@dataclass
class ProportionalIntegral(Controller):
    """β = K_p·e + I with I ← I + K_i·e, e = KL − target in nats; both kept within the bounds.

    The integral, which begins at the coefficient, is kept within them too, so that it does not wind up while β cannot
    follow.

    Args:
        coefficient, target, unit, level, least, most: as in `Controller`.
        proportional: K_p, a nat.
        integral: K_i, a nat and batch.

    Raises:
        InputError: as for `Adaptive`.

    Source: Stooke, Achiam & Abbeel 2020, “Responsive Safety in Reinforcement Learning by PID Lagrangian Methods”,
    algorithm 2 without its derivative.

    Example:
        >>> import kullback as kb
        >>> controller = kb.controllers.ProportionalIntegral(0.1, 6.0, "sequence", proportional=0.01, integral=0.001)
        >>> round(controller.update(kb.Exact(16.0, "nats/sequence")), 6)
        0.21
        >>> round(controller.update(kb.Exact(5.0, "nats/sequence")), 6)
        0.099
    """

    proportional: float = field(default=0.01, kw_only=True)
    integral: float = field(default=0.001, kw_only=True)
    accumulated: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("proportional", self.proportional, "a gain of at least 0")
        _check("integral", self.integral, "a gain of at least 0")
        self.accumulated = self.coefficient

    @property
    def _kept(self) -> tuple[str, ...]:
        return (*super()._kept, "accumulated")

    def _next(self, error: float) -> float:
        self.accumulated = min(max(self.accumulated + self.integral * error, self.least), self.most)
        return self.accumulated + self.proportional * error


@dataclass
class Dual(Controller):
    """Dual ascent for a budget: β ← max(0, β + rate·(KL − target)).

    Of max E[reward] subject to KL ≤ target, β is the multiplier: 0 where the budget is not reached.

    Args:
        coefficient, target, unit, level, least, most: as in `Controller`.
        rate: the step, a nat and batch.

    Raises:
        InputError: as for `Adaptive`.

    Source: Boyd & Vandenberghe 2004, “Convex Optimization”, section 5.1 (projected subgradient of the dual).

    Example:
        >>> import kullback as kb
        >>> controller = kb.controllers.Dual(0.1, 6.0, "sequence", rate=0.01)
        >>> round(controller.update(kb.Exact(8.0, "nats/sequence")), 6)
        0.12
    """

    rate: float = field(default=0.01, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("rate", self.rate, "a step of at least 0")

    def _next(self, error: float) -> float:
        return self.coefficient + self.rate * error


def _check(name: str, value: float, words: str) -> None:
    if not (isinstance(value, int | float) and isfinite(value) and value >= 0):
        raise InputError(f"{name}={shown(value)} came, but {words} is needed")
