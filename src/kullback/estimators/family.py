"""The family: every estimator with its promises and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from kullback import targets
from kullback.arrays import A, Elementwise, Numbers, at_least_float32, digits, number, to_numpy
from kullback.errors import InputError, shown
from kullback.estimators import divergences
from kullback.estimators.controls import MARTINGALE, RATIO
from kullback.estimators.record import NOTHING, ByLevel, Estimator, Link, both
from kullback.families import Family
from kullback.targets import Target

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


def _identity(token_kl: A) -> A:
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
    controls=(MARTINGALE,),
    valued=True,
)


def _control_variate(log_ratio: A, coefficient: float) -> A:
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
    if isinstance(coefficient, str) and coefficient == "fit":
        return CONTROL_VARIATE
    value = number("coefficient", coefficient, "λ is a finite number or 'fit'")
    named = {0.0: K1, 1.0: K3}.get(value)
    return Estimator(
        name=f"control_variate_{digits(value)}",
        fn=partial(_control_variate, coefficient=value),
        value_of=both(targets.REVERSE_KL),
        loss_gradient_of=named.loss_gradient_of if named else NOTHING,
        reward_gradient_of=named.reward_gradient_of if named else NOTHING,
        nonnegative=named.nonnegative if named else False,
        source=SCHULMAN,
    )


CONTROL_VARIATE = replace(
    K1, name="control_variate", loss_gradient_of=NOTHING, reward_gradient_of=NOTHING, controls=(RATIO,)
)


def Clamped(estimator: Estimator | str, log_ratio: float, value: float = float("inf")) -> Estimator:
    """clip(k(clip(ℓ, ±log_ratio)), ±value): biased as soon as a clamp binds, so it promises nothing.

    Args:
        estimator: a function of log-ratios, or its name.
        log_ratio, value: the limits, above 0; inf clamps nothing.

    Raises:
        InputError: a limit that is not above 0, or an estimator that is no function of a log-ratio alone.

    Example:
        >>> import kullback as kb
        >>> kb.Clamped(kb.K3, log_ratio=20, value=10).value_of["token"] is None
        True
    """
    inner = estimator if isinstance(estimator, Estimator) else member(estimator)
    if inner.reads != "log_ratio" or inner.controls or inner.link is not None:
        raise InputError(f"{inner.name} came, but only a function of a log-ratio alone can be clamped: kullback.K3")
    limits = [_limit("log_ratio", log_ratio), _limit("value", value)]
    named = digits(limits[0]) if limits[1] == float("inf") else "_".join(map(digits, limits))
    return Estimator(
        name=f"{inner.name}_clamped_{named}",
        fn=partial(divergences.clamped, function=inner.fn, log_ratio_limit=limits[0], value_limit=limits[1]),
        value_of=NOTHING,
        loss_gradient_of=NOTHING,
        reward_gradient_of=NOTHING,
        nonnegative=inner.nonnegative,
        source="verl, OpenRLHF, NeMo-RL and slime, against overflow",
    )


def _limit(name: str, limit: float) -> float:
    words = "a clamp is at a number above 0"
    found = number(name, limit, words, infinite=True)
    if found <= 0:
        raise InputError(f"{name}={shown(limit)} came, but {words}")
    return found


def _mean_of(
    name: str,
    fn: Elementwise,
    *,
    statewise: Target,
    sequence: Target,
    nonnegative: bool = True,
    source: str = CSISZAR,
) -> Estimator:
    """An estimator whose loss and reward gradients follow no named target."""
    return Estimator(
        name=name,
        fn=fn,
        value_of=ByLevel(token=statewise, sequence=sequence),
        loss_gradient_of=NOTHING,
        reward_gradient_of=NOTHING,
        nonnegative=nonnegative,
        source=source,
    )


def Alpha(alpha: float) -> Estimator:
    """Amari's α-divergence as a Bregman gap; relative errors grow like 1/|α(1 − α)| near α = 0 and 1.

    Raises:
        InputError: α is no finite number, or 0 or 1, where the limit is a KL.

    Example:
        >>> import kullback as kb
        >>> kb.Alpha(0.5).value_of["sequence"].formula
        'D_α=0.5(q‖p) (Amari)'
    """
    alpha = number("alpha", alpha, "α is a finite number other than 0 and 1")
    if alpha in (0.0, 1.0):
        other = "forward_k3" if alpha == 0.0 else "k3"
        raise InputError(f"alpha={alpha:g} is the limit where the α-divergence is a KL: use {other}")
    return _mean_of(
        f"alpha_{digits(alpha)}",
        partial(divergences.alpha_gap, alpha=alpha),
        statewise=targets.alpha_divergence(alpha, "state"),
        sequence=targets.alpha_divergence(alpha),
    )


def Skew(weight: float) -> Estimator:
    """KL(q ‖ (1−β)q + βp): bounded above by −log(1 − β), finite whatever the supports.

    Raises:
        InputError: β is not strictly between 0 and 1.

    Example:
        >>> import kullback as kb
        >>> kb.Skew(0.1).value_of["sequence"].formula
        'KL(q‖0.9q + 0.1p)'
    """
    words = "a mixture weight lies strictly between 0 and 1"
    weight = number("weight", weight, words)
    if not 0.0 < weight < 1.0:
        raise InputError(f"weight={weight:g} came, but {words}")
    return _mean_of(
        f"skew_{digits(weight)}",
        partial(divergences.skew_kl, weight=weight),
        statewise=targets.skew_kl(weight, "state"),
        sequence=targets.skew_kl(weight),
        nonnegative=False,
        source="Lee 1999, “Measures of Distributional Similarity”",
    )


def Renyi(alpha: float) -> Estimator:
    """Rényi's D_α(q‖p) = log E_q[r^(1−α)]/(α − 1), α > 0, α ≠ 1, of sequences.

    The mean of r^(1−α) is unbiased, its logarithm is not (Jensen): consistent, and no promise of value.

    Raises:
        InputError: α is not positive, or 1.

    Example:
        >>> import kullback as kb
        >>> kb.Renyi(2.0).name, kb.Renyi(2.0).value_of["sequence"] is None
        ('renyi_2', True)
    """
    words = "Rényi's order is finite, positive and not 1 (1 is the KL)"
    alpha = number("alpha", alpha, words)
    if alpha <= 0 or alpha == 1:
        raise InputError(f"alpha={alpha:g} came, but {words}")
    return Estimator(
        name=f"renyi_{digits(alpha)}",
        fn=partial(divergences.affinity, alpha=alpha),
        value_of=NOTHING,
        loss_gradient_of=NOTHING,
        reward_gradient_of=NOTHING,
        nonnegative=True,
        source="Rényi 1961",
        link=Link(function=partial(_renyi, alpha=alpha), derivative=partial(_renyi_slope, alpha=alpha)),
    )


def _renyi(mean: float, alpha: float) -> float:
    return float(np.log(mean)) / (alpha - 1.0)


def _renyi_slope(mean: float, alpha: float) -> float:
    return 1.0 / (mean * (alpha - 1.0))


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
            statewise=targets.STATEWISE_FORWARD_KL,
            sequence=targets.FORWARD_KL,
            nonnegative=False,
        ),
        _mean_of(
            "forward_k3",
            divergences.forward_k3,
            statewise=targets.STATEWISE_FORWARD_KL,
            sequence=targets.FORWARD_KL,
        ),
        _mean_of(
            "jeffreys",
            divergences.jeffreys,
            statewise=targets.STATEWISE_JEFFREYS,
            sequence=targets.JEFFREYS,
        ),
        _mean_of(
            "pearson_chi2",
            divergences.pearson_chi2,
            statewise=targets.STATEWISE_PEARSON_CHI2,
            sequence=targets.PEARSON_CHI2,
        ),
        _mean_of(
            "neyman_chi2",
            divergences.neyman_chi2,
            statewise=targets.STATEWISE_NEYMAN_CHI2,
            sequence=targets.NEYMAN_CHI2,
        ),
        _mean_of(
            "squared_hellinger",
            divergences.squared_hellinger,
            statewise=targets.STATEWISE_SQUARED_HELLINGER,
            sequence=targets.SQUARED_HELLINGER,
        ),
        _mean_of(
            "jensen_shannon",
            divergences.jensen_shannon,
            statewise=targets.STATEWISE_JENSEN_SHANNON,
            sequence=targets.JENSEN_SHANNON,
        ),
        _mean_of(
            "total_variation",
            divergences.total_variation,
            statewise=targets.STATEWISE_TOTAL_VARIATION,
            sequence=targets.TOTAL_VARIATION,
        ),
        _mean_of(
            "total_variation_abs",
            divergences.total_variation_abs,
            statewise=targets.STATEWISE_TOTAL_VARIATION,
            sequence=targets.TOTAL_VARIATION,
        ),
        Alpha(0.5),
        Skew(0.1),
        Renyi(2.0),
        Clamped(K1, log_ratio=10.0),
        Clamped(K3, log_ratio=20.0, value=10.0),
    )
)


def member(estimator: Estimator | str) -> Estimator:
    """The estimator itself, or the one of `ESTIMATORS` that has the name.

    Raises:
        NameUnknownError: no member has the name.
        InputError: neither an estimator nor a name.

    Example:
        >>> from kullback.estimators import K3, member
        >>> member("k3") is member(K3) is K3
        True
    """
    if isinstance(estimator, str):
        return ESTIMATORS[estimator]
    for known in ESTIMATORS:
        if known == estimator:  # one that was pickled is equal, and here the same again
            return known
    if not isinstance(estimator, Estimator):
        raise InputError(
            f"estimator={shown(estimator)} came, but a member of kullback.ESTIMATORS is needed, such as kullback.K3, "
            "or its name"
        )
    return estimator


def optimal_coefficient(log_ratio: Numbers) -> float:
    """λ* = J(q,p)/χ²(p‖q), both estimated from log-ratios of samples of q: a diagnostic, not unbiased.

    Near 1 k3 is close to the best of the family; near 0 k1 is. The exact λ* of a small world is
    ``world.exact(JEFFREYS) / world.exact(PEARSON_CHI2)``.

    Args:
        log_ratio: ℓ of the samples, any shape, nats.

    Raises:
        InputError: a log-ratio that is not finite; or all are zero, so that any coefficient does.

    Example:
        >>> import kullback as kb
        >>> round(kb.optimal_coefficient([0.1, -0.2, 0.3]), 3)
        1.05
    """
    x = to_numpy(at_least_float32(log_ratio)).astype(np.float64)
    if not x.size or not np.isfinite(x).all():
        raise InputError("log-ratios that are not finite came, or none: leave out the tokens that are masked")
    spread = float(np.mean(divergences.pearson_chi2(x)))
    if spread == 0.0:
        raise InputError("every log-ratio is 0: the two models agree on these samples and any λ does")
    return float(np.mean(divergences.jeffreys(x))) / spread
