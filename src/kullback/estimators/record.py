"""What an estimator is, and what it promises at which level."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, overload

import numpy as np

from kullback.arrays import A, Array, Elementwise, Numbers, at_least_float32, is_jax, is_torch
from kullback.errors import InputError, shown
from kullback.estimators.controls import Control
from kullback.targets import Target

Level = Literal["token", "sequence"]
LEVELS: tuple[Level, ...] = ("token", "sequence")


class Promise(Mapping[str, "Target | None"]):
    """What is promised case by case: ``promise["token"]`` or ``promise.token``."""

    def __getitem__(self, case: str) -> Target | None:
        if case not in self.cases():
            raise InputError(
                f"{shown(case)} came, but this promise has the cases {' and '.join(map(repr, self.cases()))}"
            )
        target: Target | None = getattr(self, case)
        return target

    def __iter__(self) -> Iterator[str]:
        return iter(self.cases())

    def __len__(self) -> int:
        return len(self.cases())

    @classmethod
    def cases(cls) -> tuple[str, ...]:
        """The cases, in order."""
        return tuple(cls.__annotations__)


@dataclass(frozen=True)
class ByLevel(Promise):
    """A promise for an estimator applied to every token and summed, and applied to the sum."""

    token: Target | None
    sequence: Target | None


def both(target: Target | None) -> ByLevel:
    """The same promise at the two levels."""
    return ByLevel(target, target)


NOTHING = both(None)


@dataclass(frozen=True)
class Link:
    """A function of the mean of an estimator, for divergences that are not means themselves."""

    function: Callable[[float], float]
    derivative: Callable[[float], float]


@dataclass(frozen=True)
class Estimator:
    """A function of the log-ratio together with everything it promises.

    Call it on log-ratios ℓ = log q − log p (nats) of any shape, as NumPy, torch or JAX arrays; bfloat16 and
    float16 are computed in float32. On NumPy input an overflow comes with a RuntimeWarning that names the
    first place; for torch and JAX, where looking would stop the device, `kullback.estimate` names it.

    Attributes:
        name: what tables and the command line call it.
        fn: the function, pure and elementwise.
        value_of: the target its expectation under q equals, by level.
        loss_gradient_of: the target whose gradient a loss follows, the samples held fixed.
        reward_gradient_of: the target whose gradient the score-function estimate follows, with it in the
            reward, detached, credited with the whole sequence's return.
        nonnegative: whether it is never below zero, rounding included.
        source: where it comes from.
        reads: the column of a batch it is a function of.
        controls: mean-zero controls, whose coefficients `kullback.estimate` fits leave-one-out.
        valued: whether `kullback.estimate` also subtracts token values, where their columns are at hand.
        link: for Rényi's divergence, the function of the mean that is meant.

    Example:
        >>> import kullback as kb, numpy as np
        >>> kb.K3(np.array([0.0, 0.5, -0.5]))
        array([0.        , 0.10653066, 0.14872127])
        >>> kb.K3.value_of["sequence"], kb.K3.loss_gradient_of["sequence"]
        (REVERSE_KL, FORWARD_KL)
    """

    name: str
    fn: Elementwise
    value_of: ByLevel
    loss_gradient_of: ByLevel
    reward_gradient_of: ByLevel
    nonnegative: bool
    source: str
    reads: Literal["log_ratio", "token_kl"] = "log_ratio"
    controls: tuple[Control, ...] = ()
    link: Link | None = None
    valued: bool = False

    @overload
    def __call__(self, log_ratio: A) -> A: ...
    @overload
    def __call__(self, log_ratio: Numbers) -> Array: ...
    def __call__(self, log_ratio: Numbers) -> Array:
        """The estimator's value for each log-ratio.

        Raises:
            InputError: the input does not hold floating-point numbers, or the estimator is fitted.
        """
        if self.controls:
            raise InputError(
                f"{self.name} fits its coefficients on a whole batch and has no value a token: "
                "pass it to kullback.estimate(..., estimator=...)"
            )
        x = at_least_float32(log_ratio, self.reads)
        if is_torch(x) or is_jax(x):
            return self.fn(x)
        with np.errstate(all="ignore"):
            value = self.fn(x)
        if not isinstance(x, np.ndarray | np.generic) or not isinstance(value, np.ndarray | np.generic):
            return value
        overflown = np.isinf(value) & np.isfinite(x)
        if overflown.any():
            first = tuple(int(i) for i in np.argwhere(np.atleast_1d(overflown))[0])
            warnings.warn(
                f"{self.name} overflows to inf at {int(overflown.sum())} log-ratio(s), first at index {first} "
                f"where it is {float(np.atleast_1d(x)[first]):.6g} nats",
                RuntimeWarning,
                stacklevel=2,
            )
        return value

    @property
    def slope(self) -> float:
        """lim k/r as r grows: what a mean lacks for each unit of reference probability the policy excludes.

        Of a gap k = f(r) − f′(1)(r − 1) it is f′(∞) − f′(1): 0 of k1, and 1 of k3, whose f is the same −log r.
        """
        if self.reads != "log_ratio":
            return 0.0
        with np.errstate(all="ignore"):
            return float(self.fn(np.array(-60.0)) * np.exp(-60.0))

    @property
    def formula(self) -> str:
        """The first line of the function's documentation."""
        function: object = self.fn.func if isinstance(self.fn, partial) else self.fn
        return str(function.__doc__).splitlines()[0]

    def __repr__(self) -> str:
        return f"<estimator {self.name}>"
