"""Estimators of a divergence from samples of the policy, each with its promises.

An estimator is a function of the log-ratio ℓ = log q − log p of a sample x ~ q (or, for Rao-Blackwell, of
the exact token KL), in nats. At level ``"token"`` it is applied to every token's ℓ and summed over the
sequence; at level ``"sequence"`` it is applied to the summed ℓ. Its promises say, for each level, which
target its expectation equals and whose gradient it follows; ``None`` means: none of the named targets.
Every promise is held against exact enumeration by the tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from kullback import divergences, targets
from kullback.arrays import Array, at_least_float32, is_jax, is_torch
from kullback.errors import InputError
from kullback.families import Family
from kullback.targets import Target

Level = Literal["token", "sequence"]
LEVELS: tuple[Level, ...] = ("token", "sequence")


class Promise(Mapping[str, "Target | None"]):
    """What is promised case by case: ``promise["token"]`` or ``promise.token``."""

    def __getitem__(self, case: str) -> Target | None:
        if case not in self.cases():
            raise InputError(f"{case!r} came, but this promise has the cases {' and '.join(map(repr, self.cases()))}")
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
        controls: mean-zero controls, by name, whose coefficients `kullback.estimate` fits leave-one-out.
        link: for Rényi's divergence, the function of the mean that is meant.

    Example:
        >>> import kullback as kb, numpy as np
        >>> kb.K3(np.array([0.0, 0.5, -0.5]))
        array([0.        , 0.10653066, 0.14872127])
        >>> kb.K3.value_of["sequence"], kb.K3.loss_gradient_of["sequence"]
        (REVERSE_KL, FORWARD_KL)
    """

    name: str
    fn: Callable[[Array], Array]
    value_of: ByLevel
    loss_gradient_of: ByLevel
    reward_gradient_of: ByLevel
    nonnegative: bool
    source: str
    reads: Literal["log_ratio", "token_kl"] = "log_ratio"
    controls: tuple[str, ...] = ()
    link: Link | None = None

    def __call__(self, log_ratio: Array) -> Array:
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
        if not isinstance(x, np.ndarray | np.generic):
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
        """f′(∞) = lim f(r)/r: what a mean lacks for each unit of reference probability the policy excludes."""
        if self.reads != "log_ratio":
            return 0.0
        with np.errstate(all="ignore"):
            return float(self.fn(np.float64(-60.0)) * np.exp(-60.0))

    @property
    def formula(self) -> str:
        """The first line of the function's documentation."""
        function: Any = self.fn.func if isinstance(self.fn, partial) else self.fn
        return str(function.__doc__).splitlines()[0]

    def __repr__(self) -> str:
        return f"<estimator {self.name}>"


SCHULMAN = "Schulman 2020, “Approximating KL Divergence”"
AMINI = "Amini, Vieira & Cotterell 2025, arXiv 2504.10637"
CSISZAR = "Csiszár 1967; as Bregman gap f(r) − f′(1)(r − 1), Schulman 2020"

K1 = Estimator(
    name="k1",
    fn=divergences.k1,
    value_of=both(targets.REVERSE_KL),
    loss_gradient_of=both(targets.ZERO),
    reward_gradient_of=both(targets.REVERSE_KL),
    nonnegative=False,
    source=SCHULMAN,
)
K2 = Estimator(
    name="k2",
    fn=divergences.k2,
    value_of=NOTHING,
    loss_gradient_of=ByLevel(token=targets.STATEWISE_REVERSE_KL, sequence=targets.REVERSE_KL),
    reward_gradient_of=NOTHING,
    nonnegative=True,
    source=SCHULMAN,
)
K3 = Estimator(
    name="k3",
    fn=divergences.k3,
    value_of=both(targets.REVERSE_KL),
    loss_gradient_of=ByLevel(token=targets.STATEWISE_FORWARD_KL, sequence=targets.FORWARD_KL),
    reward_gradient_of=ByLevel(token=None, sequence=targets.KL_GAP),
    nonnegative=True,
    source=SCHULMAN,
)


def _identity(token_kl: Array) -> Array:
    """KL(q_t‖p_t) summed over the vocabulary, at the sampled prefixes."""
    return 1.0 * token_kl


RAO_BLACKWELL = Estimator(
    name="rao_blackwell",
    fn=_identity,
    value_of=both(targets.REVERSE_KL),
    loss_gradient_of=both(targets.STATEWISE_REVERSE_KL),
    reward_gradient_of=NOTHING,
    nonnegative=True,
    source=AMINI,
    reads="token_kl",
)
RAO_BLACKWELL_CONTROLLED = replace(
    RAO_BLACKWELL,
    name="rao_blackwell_controlled",
    loss_gradient_of=NOTHING,
    nonnegative=False,
    controls=("martingale", "ratio"),
)


def _control_variate(log_ratio: Array, coefficient: float) -> Array:
    """ℓ + λ(r − 1), r = exp(−ℓ)."""
    # λ k3 + (1 − λ) k1 is the same function without the cancellation of ℓ against λ(r − 1).
    return coefficient * divergences.k3(log_ratio) + (1.0 - coefficient) * divergences.k1(log_ratio)


def ControlVariate(coefficient: float | Literal["fit"]) -> Estimator:
    """k1 + λ(r − 1): unbiased for KL(q‖p) for every fixed λ where supp p ⊆ supp q.

    λ = 0 is k1 and λ = 1 is k3. The variance is least at λ* = J(q,p)/χ²(p‖q), since
    Cov(k1, r) = −J and Var(r) = χ². `"fit"` estimates λ* from the other sequences of the batch, so that the
    estimate stays unbiased (the same-batch plug-in is not).

    Args:
        coefficient: λ, or "fit".

    Raises:
        InputError: λ is not a finite number or "fit".

    Example:
        >>> import kullback as kb
        >>> kb.ControlVariate(0.9).value_of["token"], kb.ControlVariate(0.9).nonnegative
        (REVERSE_KL, False)
    """
    if coefficient == "fit":
        return CONTROL_VARIATE
    if isinstance(coefficient, str) or not np.isfinite(coefficient):
        raise InputError(f"coefficient={coefficient!r} came, but λ is a finite number or 'fit'")
    named = {0.0: K1, 1.0: K3}.get(float(coefficient))
    return Estimator(
        name=f"control_variate_{coefficient:g}",
        fn=partial(_control_variate, coefficient=float(coefficient)),
        value_of=both(targets.REVERSE_KL),
        loss_gradient_of=named.loss_gradient_of if named else NOTHING,
        reward_gradient_of=named.reward_gradient_of if named else NOTHING,
        nonnegative=named.nonnegative if named else False,
        source=SCHULMAN,
    )


CONTROL_VARIATE = replace(
    K1, name="control_variate", loss_gradient_of=NOTHING, reward_gradient_of=NOTHING, controls=("ratio",)
)


def Clamped(estimator: Estimator, log_ratio: float, value: float = float("inf")) -> Estimator:
    """clip(k(clip(ℓ, ±log_ratio)), ±value): biased as soon as a clamp binds, so it promises nothing.

    Example:
        >>> import kullback as kb
        >>> kb.Clamped(kb.K3, log_ratio=20, value=10).value_of["token"] is None
        True
    """
    limits = f"{log_ratio:g}" if value == float("inf") else f"{log_ratio:g}_{value:g}"
    return Estimator(
        name=f"{estimator.name}_clamped_{limits}",
        fn=partial(divergences.clamped, function=estimator.fn, log_ratio_limit=log_ratio, value_limit=value),
        value_of=NOTHING,
        loss_gradient_of=NOTHING,
        reward_gradient_of=NOTHING,
        nonnegative=estimator.nonnegative,
        source="verl, OpenRLHF, NeMo-RL and slime, against overflow",
    )


def _mean_of(
    name: str,
    fn: Callable[[Array], Array],
    statewise: Target,
    sequence: Target,
    nonnegative: bool = True,
    source: str = CSISZAR,
) -> Estimator:
    """An estimator whose loss and reward gradients follow no named target."""
    return Estimator(name, fn, ByLevel(statewise, sequence), NOTHING, NOTHING, nonnegative, source)


def Alpha(alpha: float) -> Estimator:
    """Amari's α-divergence as a Bregman gap; relative errors grow like 1/|α(1 − α)| near α = 0 and 1."""
    if alpha in (0.0, 1.0):
        other = "forward_k3" if alpha == 0.0 else "k3"
        raise InputError(f"alpha={alpha:g} is the limit where the α-divergence is a KL: use {other}")
    return _mean_of(
        f"alpha_{alpha:g}",
        partial(divergences.alpha_gap, alpha=alpha),
        targets.alpha_divergence(alpha, "state"),
        targets.alpha_divergence(alpha),
    )


def Skew(weight: float) -> Estimator:
    """KL(q ‖ (1−β)q + βp): bounded above by −log(1 − β), finite whatever the supports."""
    if not 0.0 < weight < 1.0:
        raise InputError(f"weight={weight:g} came, but a mixture weight lies strictly between 0 and 1")
    return _mean_of(
        f"skew_{weight:g}",
        partial(divergences.skew_kl, weight=weight),
        targets.skew_kl(weight, "state"),
        targets.skew_kl(weight),
        nonnegative=False,
        source="Lee 1999, “Measures of Distributional Similarity”",
    )


def Renyi(alpha: float) -> Estimator:
    """Rényi's D_α(q‖p) = log E_q[r^(1−α)]/(α − 1), α > 0, α ≠ 1, of sequences.

    The mean of r^(1−α) is unbiased, its logarithm is not (Jensen): consistent, and no promise of value.
    """
    if alpha <= 0 or alpha == 1:
        raise InputError(f"alpha={alpha:g} came, but Rényi's order is positive and not 1 (1 is the KL)")
    return Estimator(
        name=f"renyi_{alpha:g}",
        fn=partial(divergences.affinity, alpha=alpha),
        value_of=NOTHING,
        loss_gradient_of=NOTHING,
        reward_gradient_of=NOTHING,
        nonnegative=True,
        source="Rényi 1961",
        link=Link(lambda mean: float(np.log(mean)) / (alpha - 1.0), lambda mean: 1.0 / (mean * (alpha - 1.0))),
    )


ESTIMATORS: Family[Estimator] = Family(
    (
        K1,
        K2,
        K3,
        CONTROL_VARIATE,
        RAO_BLACKWELL,
        RAO_BLACKWELL_CONTROLLED,
        _mean_of(
            "forward_k1",
            divergences.forward_k1,
            targets.STATEWISE_FORWARD_KL,
            targets.FORWARD_KL,
            nonnegative=False,
        ),
        _mean_of("forward_k3", divergences.forward_k3, targets.STATEWISE_FORWARD_KL, targets.FORWARD_KL),
        _mean_of("jeffreys", divergences.jeffreys, targets.STATEWISE_JEFFREYS, targets.JEFFREYS),
        _mean_of("pearson_chi2", divergences.pearson_chi2, targets.STATEWISE_PEARSON_CHI2, targets.PEARSON_CHI2),
        _mean_of("neyman_chi2", divergences.neyman_chi2, targets.STATEWISE_NEYMAN_CHI2, targets.NEYMAN_CHI2),
        _mean_of(
            "squared_hellinger",
            divergences.squared_hellinger,
            targets.STATEWISE_SQUARED_HELLINGER,
            targets.SQUARED_HELLINGER,
        ),
        _mean_of(
            "jensen_shannon",
            divergences.jensen_shannon,
            targets.STATEWISE_JENSEN_SHANNON,
            targets.JENSEN_SHANNON,
        ),
        _mean_of(
            "total_variation",
            divergences.total_variation,
            targets.STATEWISE_TOTAL_VARIATION,
            targets.TOTAL_VARIATION,
        ),
        _mean_of(
            "total_variation_abs",
            divergences.total_variation_abs,
            targets.STATEWISE_TOTAL_VARIATION,
            targets.TOTAL_VARIATION,
        ),
        Alpha(0.5),
        Skew(0.1),
        Renyi(2.0),
        Clamped(K1, log_ratio=10.0),
        Clamped(K3, log_ratio=20.0, value=10.0),
    )
)


def optimal_coefficient(log_ratio: Array) -> float:
    """λ* = J(q,p)/χ²(p‖q), both estimated from log-ratios of samples of q: a diagnostic, not unbiased.

    Near 1 k3 is close to the best of the family; near 0 k1 is. The exact λ* of a small world is
    ``world.exact(JEFFREYS) / world.exact(PEARSON_CHI2)``.

    Args:
        log_ratio: ℓ of the samples, any shape, nats.

    Raises:
        InputError: every log-ratio is zero, so that any coefficient does.
    """
    x = np.asarray(at_least_float32(log_ratio), dtype=np.float64)
    spread = float(np.mean(divergences.pearson_chi2(x)))
    if spread == 0.0:
        raise InputError("every log-ratio is 0: the two models agree on these samples and any λ does")
    return float(np.mean(divergences.jeffreys(x))) / spread
