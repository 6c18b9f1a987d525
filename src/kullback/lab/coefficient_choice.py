"""Ways of choosing λ in k1 + λ(r − 1): what each gains, and the bias of fitting it on the batch it is used on.

Every expectation is a sum over all batches of n draws from a categorical pair, written out as counts: there are
few, since the order of the draws does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, sqrt

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.documents import Cell, Chart, Document, Number, Panel, Series, Table
from kullback.errors import InputError
from kullback.estimation.conclusion import RIDGE_ROWS
from kullback.lab.cells import Columns, numbers, settled, table_of
from kullback.lab.outcome import ExperimentOutcome
from kullback.oracle import reference_world

BATCHES = 300_000
"""Multisets that are enumerated at most."""

UNBIASED = 1e-9
"""Relative biases below this are rounding."""

BatchEstimate = Callable[[Float64, Float64, Float64], float]


@dataclass(frozen=True)
class Choice:
    """One way of choosing λ, at one batch size.

    Attributes:
        way: which.
        n: draws of a batch.
        bias: E[estimate]/KL − 1, exact.
        stdev: of the estimate over the KL, exact.
        gain: variance of k1's mean over this mean squared error; above 1 is better than k1.
    """

    way: str
    n: int
    bias: float
    stdev: float
    gain: float


@dataclass(frozen=True)
class Gain:
    """Variance of one sequence over k1's in a world, by how λ is shared out; at the best λ.

    Attributes:
        kl: of the world, nats a sequence.
        k3: at λ = 1 for every token.
        shared: one λ for all tokens.
        by_position: one λ for each position.
        by_prefix: one λ for each prefix.
        sequence: one λ for the ratio of the whole sequence.
        coefficient: the shared λ*.
    """

    distance: float
    kl: float
    k3: float
    shared: float
    by_position: float
    by_prefix: float
    sequence: float
    coefficient: float


@dataclass(frozen=True)
class Coefficients(ExperimentOutcome):
    """What `coefficients` found.

    Attributes:
        policy, reference: the categorical pair.
        kl, best: its KL(q‖p) and λ* = J/χ².
        choices: every way at every batch size.
        gains: in worlds of sequences.

    Example:
        >>> from kullback import lab
        >>> found = lab.coefficients(sizes=[5, 20], distances=[0.5])
        >>> [(choice.n, round(choice.gain, 1)) for choice in found.of("1 (k3)")]
        [(5, 12.0), (20, 12.0)]
    """

    policy: tuple[float, ...]
    reference: tuple[float, ...]
    kl: float
    best: float
    choices: tuple[Choice, ...]
    gains: tuple[Gain, ...]

    def of(self, way: str) -> list[Choice]:
        """One way along the batch sizes."""
        return [choice for choice in self.choices if choice.way == way]

    def document(self) -> Document:
        """The ways on the categorical pair, and the gains on sequences."""
        return _document(self)


def coefficients(
    policy: Sequence[float] = (0.5, 0.3, 0.2),
    reference: Sequence[float] = (0.2, 0.3, 0.5),
    *,
    sizes: Sequence[int] = (2, 3, 5, 10, 20, 50, 100),
    distances: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0),
) -> Coefficients:
    """What each way of choosing λ in k1 + λ(r − 1) gains, and its bias, exactly, by enumerating batches.

    The ways: fixed at 0 (k1), 1 (k3) or λ* = J/χ²; J/χ² with both estimated on the same batch
    (`kullback.optimal_coefficient`); least squares on the same batch; least squares on the other draws
    (leave-one-out); and the same with a ridge of 60·(1 + γ²) draws, γ the control's skewness, as
    ``ControlVariate("fit")`` has it.

    Args:
        policy, reference: probabilities q and p of the outcomes, the same support.
        sizes: draws of a batch, at least 2.
        distances: of the worlds of sequences in which the gains are computed.

    Raises:
        InputError: no probabilities, different supports, batches below 2, or too many batches to enumerate.

    Reference: docs/theory.md, “λ* = J/χ²”.

    Example:
        >>> from kullback import lab
        >>> found = lab.coefficients(sizes=[3])
        >>> mean = {choice.way: round(found.kl * (1 + choice.bias), 4) for choice in found.choices}
        >>> round(found.kl, 4), mean["J/χ², same batch"], mean["leave-one-out"]
        (0.2749, 0.1124, 0.2749)
    """
    q, p = _checked(policy, reference)
    ell, control = np.log(q / p), p / q - 1.0
    kl, best = float(q @ ell), float(((p - q) @ -ell) / (q @ control**2)) if np.any(control) else 0.0
    if kl == 0:
        raise InputError("policy and reference are the same: no coefficient matters")
    choices: list[Choice] = []
    for n in sizes:
        moments = {way: _over_batches(estimator(best), q, ell, control, n) for way, estimator in WAYS.items()}
        base = moments["0 (k1)"][1]
        for way, (mean, variance) in moments.items():
            error = (mean - kl) ** 2 + variance
            choices.append(Choice(way, n, mean / kl - 1.0, sqrt(max(variance, 0.0)) / kl, base / error))
    ordered = tuple(choice for way in WAYS for choice in choices if choice.way == way)
    return Coefficients(tuple(policy), tuple(reference), kl, best, ordered, tuple(_gain(d) for d in distances))


def _checked(policy: Sequence[float], reference: Sequence[float]) -> tuple[Float64, Float64]:
    q, p = (np.asarray(x, dtype=np.float64) for x in (policy, reference))
    right = q.shape == p.shape and q.ndim == 1 and len(q) > 1 and min(q.min(), p.min()) > 0
    if not right or abs(q.sum() - 1) > 1e-9 or abs(p.sum() - 1) > 1e-9:
        raise InputError(
            f"policy={list(policy)} and reference={list(reference)} came, but both must be positive probabilities of "
            "the same outcomes that sum to 1"
        )
    return q, p


def _fixed(coefficient: float) -> BatchEstimate:
    return lambda counts, ell, control: float(counts @ (ell + coefficient * control) / counts.sum())


def _fit(counts: Float64, ell: Float64, control: Float64) -> float:
    """λ̂ = −Σ(ℓ − ℓ̄)h/Σh², the least-squares coefficient with E[h] = 0 known; 0 where h says nothing."""
    n, second = counts.sum(), float(counts @ control**2)
    if n == 0 or second == 0:
        return 0.0
    return -float(counts @ ((ell - counts @ ell / n) * control)) / second


def _ratio_fit(counts: Float64, ell: Float64, control: Float64) -> float:
    """Ĵ/χ̂², both from the batch."""
    second = float(counts @ control**2)
    return -float(counts @ (ell * control)) / second if second else 0.0


def _same_batch(fit: BatchEstimate) -> BatchEstimate:
    return lambda counts, ell, control: _fixed(fit(counts, ell, control))(counts, ell, control)


def _ridge_fit(counts: Float64, ell: Float64, control: Float64) -> float:
    """The same with RIDGE_ROWS·(1 + γ²) draws that say 0, γ the skewness of the control about zero."""
    n, second = counts.sum(), float(counts @ control**2)
    if n == 0 or second == 0:
        return 0.0
    return _fit(counts, ell, control) / (1 + RIDGE_ROWS * float(1 / n + (counts @ control**3) ** 2 / second**3))


def _leave_one_out(fit: BatchEstimate) -> BatchEstimate:
    def estimate(counts: Float64, ell: Float64, control: Float64) -> float:
        total = 0.0
        for outcome in np.flatnonzero(counts):
            others = counts.copy()
            others[outcome] -= 1
            total += counts[outcome] * (ell[outcome] + fit(others, ell, control) * control[outcome])
        return float(total / counts.sum())

    return estimate


WAYS: dict[str, Callable[[float], BatchEstimate]] = {
    "0 (k1)": lambda best: _fixed(0.0),
    "1 (k3)": lambda best: _fixed(1.0),
    "λ* = J/χ²": lambda best: _fixed(best),
    "J/χ², same batch": lambda best: _same_batch(_ratio_fit),
    "least squares, same batch": lambda best: _same_batch(_fit),
    "leave-one-out": lambda best: _leave_one_out(_fit),
    "leave-one-out, ridge": lambda best: _leave_one_out(_ridge_fit),
}


def _over_batches(estimator: BatchEstimate, q: Float64, ell: Float64, control: Float64, n: int) -> tuple[float, float]:
    """Mean and variance of an estimate over all batches of n draws."""
    chances, values = [], []
    for counts in _counts(len(q), n):
        draws = np.array(counts, dtype=np.float64)
        ways = lgamma(n + 1) - sum(lgamma(count + 1) for count in counts)
        chances.append(exp(ways + float(draws @ np.log(q))))
        values.append(estimator(draws, ell, control))
    chance, value = np.array(chances), np.array(values)
    mean = float(chance @ value)
    return mean, float(chance @ (value - mean) ** 2)


def _counts(outcomes: int, n: int) -> Iterator[tuple[int, ...]]:
    """How often each outcome may come in n draws."""
    many = lgamma(n + outcomes) - lgamma(n + 1) - lgamma(outcomes)
    if n < 2 or many > log(BATCHES):
        raise InputError(
            f"batches of {n} draws from {outcomes} outcomes came: at least 2 draws are needed, and at most "
            f"{BATCHES:,} different batches"
        )
    yield from _compositions(outcomes, n)


def _compositions(parts: int, n: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        yield from ((first, *rest) for rest in _compositions(parts - 1, n - first))


def _gain(distance: float) -> Gain:
    at = reference_world(distance)
    chance, mask = np.asarray(at.probability), np.asarray(at.policy.mask)
    ell = np.where(mask, to_numpy(at.policy.logprobs - at.reference.logprobs), 0.0)
    control = np.where(mask, np.expm1(-ell), 0.0)
    whole = ell.sum(axis=1)
    places = at.policy.places
    groups = {
        "shared": control.sum(axis=1, keepdims=True),
        "by_position": control,
        "by_prefix": np.stack([np.where(places == place, control, 0.0).sum(axis=1) for place in np.unique(places)], 1),
        "sequence": np.expm1(-whole)[:, None],
    }
    base = _spread(chance, whole)
    fitted = {name: _residual(chance, whole, columns) for name, columns in groups.items()}
    return Gain(
        distance=distance,
        kl=float(chance @ whole),
        k3=_spread(chance, whole + control.sum(axis=1)) / base,
        coefficient=_best(chance, whole, groups["shared"]),
        **{name: variance / base for name, variance in fitted.items()},
    )


def _spread(chance: Float64, values: Float64) -> float:
    return float(chance @ (values - chance @ values) ** 2)


def _residual(chance: Float64, values: Float64, columns: Float64) -> float:
    root = np.sqrt(chance)
    target, design = root * (values - chance @ values), root[:, None] * columns
    return float(np.sum((target - design @ np.linalg.lstsq(design, target, rcond=1e-12)[0]) ** 2))


def _best(chance: Float64, values: Float64, columns: Float64) -> float:
    return -float(chance @ (values * columns[:, 0])) / float(chance @ columns[:, 0] ** 2)


def _document(found: Coefficients) -> Document:
    gains = table_of(
        found.gains,
        GAINS,
        title="Variance over k1's, of one sequence, at the best λ",
        note="Worlds of 40 sequences of up to three of four tokens, by how far the policy moved. Exact.",
    )
    return Document("Ways of choosing λ in k1 + λ(r − 1)", (_choices(found), gains, _chart(found)))


GAINS: Columns[Gain] = {
    "KL(q‖p), nats": lambda gain: Number(gain.kl, ".3g"),
    "λ*": lambda gain: Number(gain.coefficient, ".3g"),
    "k3": lambda gain: Number(gain.k3, ".3g"),
    "λ* shared": lambda gain: Number(gain.shared, ".3g"),
    "by position": lambda gain: Number(gain.by_position, ".3g"),
    "by prefix": lambda gain: Number(gain.by_prefix, ".3g"),
    "of the sequence": lambda gain: Number(gain.sequence, ".3g"),
}


def _choices(found: Coefficients) -> Table:
    places = tuple(f"n = {n}" for n in dict.fromkeys(choice.n for choice in found.choices))
    biases: list[tuple[Cell, ...]] = [
        (way, "bias", *(_percent(choice.bias) for choice in found.of(way))) for way in WAYS
    ]
    gains: list[tuple[Cell, ...]] = [(way, "gain", *numbers(choice.gain for choice in found.of(way))) for way in WAYS]
    q, p = (", ".join(f"{x:g}" for x in chances) for chances in (found.policy, found.reference))
    return Table(
        title=f"Ways of choosing λ: q = ({q}), p = ({p})",
        note=(
            f"KL {found.kl:.4f} nats, λ* {found.best:.4f}. bias: of the mean of n, over the KL; gain: k1's mean "
            "squared error over this one's. Exact, over every batch."
        ),
        columns=("λ", "", *places),
        rows=(*biases, *gains),
        right=places,
    )


def _percent(bias: float) -> Number:
    return Number(100 * bias, "+.3g", "%") if settled(bias, UNBIASED) else Number(0.0, ".3g")


def _chart(found: Coefficients) -> Chart:
    def series(number: Callable[[Choice], float]) -> tuple[Series, ...]:
        return tuple(Series.of(way, ((c.n, number(c)) for c in found.of(way))) for way in WAYS)

    return Chart(
        name="lambda",
        text=(
            "Bias over the KL and gain over k1 against the batch size, for ways of choosing the coefficient λ of "
            "a control variate. The same-batch fits are biased by about 1/n; leave-one-out is not."
        ),
        panels=(
            Panel("bias", "draws of a batch, n", "bias / KL", series(lambda c: c.bias), "x"),
            Panel("gain over k1", "draws of a batch, n", "k1's MSE / MSE", series(lambda c: c.gain), "x"),
        ),
    )
