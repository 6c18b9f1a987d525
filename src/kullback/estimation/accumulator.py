"""Estimates of a divergence from sampled sequences, in one pass or accumulated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kullback.arrays import Array, Float64
from kullback.errors import InputError
from kullback.estimation.intervals import skewed_interval
from kullback.estimation.moments import Moments
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimation.summary import CHECK, DENOMINATOR, NUMERATOR, Recipe, Summary
from kullback.estimators import LEVELS, Estimator, Level, Link
from kullback.weights import Truncation, truncation

Unit = Literal["sequence", "token"]
UNITS: tuple[Unit, ...] = ("sequence", "token")

HEAVY_TAIL = 0.7
"""The k̂ from which means of a ratio are not to be trusted (Vehtari et al. 2024)."""


class Accumulator:
    """An estimate that grows with its data in constant memory, and merges with others like it.

    Splitting a batch at any place and merging the parts in their order gives the one-pass result to rounding
    (1e-12 relative): sums are centred moments, coefficients are fitted leaving out one of 1,024 cells that
    rows are dealt to in turn, and a tail is its 4,096 largest ratios.

    Args:
        estimator, level, unit, truncate: as for `kullback.estimate`.

    Raises:
        InputError: options that do not exist or do not go together.

    Example:
        >>> import kullback as kb, numpy as np
        >>> q, p = -np.random.default_rng(0).exponential(size=(2, 6, 4))
        >>> batch = {"logprobs": q, "ref_logprobs": p}
        >>> whole = kb.Accumulator(estimator=kb.K3).update(batch).result()
        >>> first, rest = ({name: a[part] for name, a in batch.items()} for part in (slice(2), slice(2, 6)))
        >>> parts = kb.Accumulator(estimator=kb.K3).update(first)
        >>> parts = parts.merge(kb.Accumulator(estimator=kb.K3).update(rest)).result()
        >>> bool(abs(parts.value - whole.value) < 1e-12)
        True
    """

    def __init__(
        self,
        *,
        estimator: Estimator,
        level: Level = "token",
        unit: Unit = "sequence",
        truncate: Truncation | float | None = None,
    ) -> None:
        self._recipe = _recipe(estimator, level, unit, truncate)
        self._summary = Summary.nothing(CHECK + len(self._recipe.columns))

    def update(
        self,
        batch: Sequences | Mapping[str, Any] | Array,
        ref_logprobs: Array | None = None,
        mask: Array | None = None,
        **columns: Any,
    ) -> Accumulator:
        """Add sequences: a mapping from column names to arrays, or the arrays as `kullback.estimate` takes them.

        Returns:
            This accumulator. A batch that is refused changes nothing.
        """
        if not isinstance(batch, Sequences | Mapping):
            if ref_logprobs is None:
                raise InputError("update got logprobs alone, but ref_logprobs of the same tokens are needed too")
            batch = Sequences.of(batch, ref_logprobs, mask, **columns)
        sequences = Sequences.of_batch(batch)
        _check_columns(self._recipe.estimator, sequences)
        summary = self._summary
        for block in sequences.blocks():
            summary += self._recipe.summarise(block)
        self._summary = summary
        return self

    def merge(self, other: Accumulator) -> Accumulator:
        """Add what another accumulator saw, as if its sequences had come after these; returns this one."""
        if self._recipe.name != other._recipe.name:
            raise InputError(f"{self} and {other} came: only accumulators of one estimator, level and unit merge")
        self._summary += other._summary
        return self

    def state(self) -> dict[str, Any]:
        """Plain numbers and NumPy arrays, for a checkpoint or another process; see `restore`."""
        return self._summary.to_state()

    def restore(self, state: Mapping[str, Any]) -> Accumulator:
        """Continue from what `state` returned on an accumulator with the same options; returns this one."""
        self._summary = Summary.from_state(state)
        return self

    def result(self) -> Estimate:
        """The estimate so far.

        Raises:
            InputError: nothing was added yet.
        """
        return _result(self._recipe, self._summary)

    def __repr__(self) -> str:
        return f"<accumulator of {self._recipe.name}, {self._summary.rows} sequences>"


def estimate(
    logprobs: Array,
    ref_logprobs: Array,
    mask: Array | None = None,
    *,
    estimator: Estimator,
    level: Level = "token",
    unit: Unit = "sequence",
    behavior_logprobs: Array | None = None,
    token_kl: Array | None = None,
    ref_mass: Array | None = None,
    groups: Any = None,
    truncate: Truncation | float | None = None,
) -> Estimate:
    """Σ_i k(ℓ_i) / n with its standard error: a divergence of the policy q from the reference p, in nats.

    At level "token", k is applied to every token's ℓ = log q − log p and summed over the sequence; at level
    "sequence" to the summed ℓ. For k1, k3 and the control variates both are unbiased for KL(q‖p) of sequences
    (E[r_t − 1 | prefix] = 0), if every token the sampler drew is counted, the end-of-sequence
    token too, and the log-probs are those of the distribution that was sampled.

    Args:
        logprobs: log q of the sampled tokens, (batch, time), NumPy, torch or JAX, any float dtype.
        ref_logprobs: log p of the same tokens; −inf where the reference excludes one.
        mask: True where a token counts, (batch, time); everything else may hold anything.
        estimator: a member of `kullback.ESTIMATORS`. Rao-Blackwell reads `token_kl`.
        level: "token" or "sequence".
        unit: "sequence" for nats a sequence; "token" for the ratio of totals, nats a token, with a
            delta-method error.
        behavior_logprobs: log μ of the same tokens where another policy drew them; then token t is weighted
            by ρ_{1:t} = Π q/μ (token KLs by ρ_{1:t−1}), which keeps the estimate unbiased for q.
        token_kl: exact KL(q_t‖p_t) over the vocabulary at each sampled prefix, (batch, time).
        ref_mass: the reference's probability of the tokens that the policy does not exclude, (batch, time);
            below 1 under top-p and top-k, where it keeps the fitted control variates unbiased.
        groups: the prompt of each row, (batch,). The error is then clustered by prompt.
        truncate: a member of `kullback.weights` or a number, the cap of the weights; biased, and says so.

    Returns:
        An `Estimate`; its `warnings` say in words what makes it doubtful.

    Raises:
        ShapeError: arrays whose shapes differ or are not (batch, time).
        InputError: log-probs that cannot be right, or a column the estimator needs and did not get.

    Reference: Schulman 2020; Vehtari et al. 2024 (k̂); docs/theory.md (when token k3 is unbiased, λ*).

    Example:
        >>> import kullback as kb
        >>> q = [[-0.5, -1.0], [-0.7, -0.2], [-0.1, -2.0]]
        >>> p = [[-0.7, -1.5], [-0.6, -0.9], [-0.3, -1.6]]
        >>> print(kb.estimate(q, p, estimator=kb.K1))
        0.37 ± 0.28 nats/sequence (n=3)
    """
    batch = Sequences.of(
        logprobs,
        ref_logprobs,
        mask,
        behavior_logprobs=behavior_logprobs,
        token_kl=token_kl,
        ref_mass=ref_mass,
        groups=groups,
    )
    return Accumulator(estimator=estimator, level=level, unit=unit, truncate=truncate).update(batch).result()


def _recipe(estimator: Estimator, level: str, unit: str, truncate: Truncation | float | None) -> Recipe:
    if not isinstance(estimator, Estimator):
        raise InputError(
            f"estimator={estimator!r} came, but a member of kullback.ESTIMATORS is needed, such as kullback.K3"
        )
    if level not in LEVELS:
        raise InputError(f"level={level!r} came, but a level is 'token' or 'sequence'")
    if unit not in UNITS:
        raise InputError(f"unit={unit!r} came, but a unit is 'sequence' or 'token'")
    if estimator.link is not None and (level, unit) != ("sequence", "sequence"):
        raise InputError(f"{estimator.name} is a function of a mean over sequences: use level='sequence'")
    return Recipe(estimator, level, unit, truncation(truncate))


def _check_columns(estimator: Estimator, sequences: Sequences) -> None:
    needs_kl = estimator.reads == "token_kl" or any(control.needs_token_kl for control in estimator.controls)
    if needs_kl and sequences.token_kl is None:
        raise InputError(
            f"{estimator.name} needs token_kl, the exact KL over the vocabulary at each prefix, and did not get it: "
            "pass token_kl=… (kullback.compare computes it) or use an estimator of log-ratios such as kullback.K3"
        )


def _result(recipe: Recipe, summary: Summary) -> Estimate:
    if summary.rows == 0:
        raise InputError("no sequence was added yet: call update(batch) before result()")
    estimator = recipe.estimator
    grouped = summary.prompts is not None and len(summary.prompts.keys) > 1
    cells = (summary.prompts.cells if grouped and summary.prompts else summary.cells).nonempty()
    clusters = len(cells.count) if grouped else summary.rows
    mean = _Mean(float("inf"), float("inf"), 0.0)
    coefficients = np.zeros(len(recipe.fitted))
    if not summary.infinite:
        left_out = _fitted(cells.leave_one_out(), recipe.fitted) if recipe.fitted else np.zeros((len(cells.count), 0))
        mean = _ratio_of_means(cells, _directions(cells, recipe.fitted, left_out), clusters, by_cell=grouped)
        mean = mean if estimator.link is None else _linked(mean, estimator.link)
        coefficients = _fitted(cells.total(), recipe.fitted)[0]
    khats = [tail.khat() for tail in (summary.ratios, summary.weights, summary.summands)]
    first, second = summary.weight_sums
    return Estimate(
        value=mean.value,
        stderr=mean.stderr if clusters > 1 else float("nan"),
        skewness=mean.skewness,
        n=summary.rows,
        ess=first**2 / second if second > 0 else 0.0,
        khat=max((khat for khat in khats if not np.isnan(khat)), default=float("nan")),
        clusters=clusters,
        estimator=estimator.name,
        level=recipe.level,
        unit=recipe.unit,
        coefficients={c.name: value for c, value in zip(estimator.controls, coefficients.tolist(), strict=True)},
        warnings=tuple(_warnings(recipe, summary, cells, grouped)),
        nonnegative=estimator.nonnegative,
    )


@dataclass(frozen=True)
class _Mean:
    value: float
    stderr: float
    skewness: float


def _fitted(table: Moments, columns: list[int]) -> Float64:
    """Coefficients (cells, controls) that minimise the variance of numerator − R·denominator + c·controls.

    The controls' means are known to be zero, so their second moments are taken about zero.
    """
    mean, comoment = table.mean, table.comoment
    divisor = mean[:, DENOMINATOR]
    ratio = np.divide(mean[:, NUMERATOR], divisor, out=np.zeros_like(divisor), where=divisor > 0)
    covariance = comoment[:, NUMERATOR, columns] - ratio[:, None] * comoment[:, DENOMINATOR, columns]
    h = mean[:, columns]
    second = comoment[:, columns][:, :, columns] + table.count[:, None, None] * h[:, :, None] * h[:, None, :]
    scale = np.sqrt(np.diagonal(second, axis1=1, axis2=2))
    scale = np.where(scale > 0, scale, 1.0)
    correlation = second / (scale[:, :, None] * scale[:, None, :])
    inverse = np.linalg.pinv(correlation, rcond=1e-10, hermitian=True)
    return np.asarray(-np.einsum("cij,cj->ci", inverse, covariance / scale) / scale)


def _directions(cells: Moments, columns: list[int], coefficients: Float64) -> Float64:
    """numerator + c·controls as a direction for each cell."""
    direction = np.zeros_like(cells.mean)
    direction[:, NUMERATOR] = 1.0
    direction[:, columns] = coefficients
    return direction


def _ratio_of_means(cells: Moments, direction: Float64, clusters: int, *, by_cell: bool) -> _Mean:
    """R = Σ direction·z / Σ denominator with its delta-method error, over rows or over whole cells."""
    total = float(np.sum(cells.count * cells.mean[:, DENOMINATOR]))
    if total <= 0:
        raise InputError("every importance weight is 0: the policy excludes all that the behaviour policy drew")
    value = float(np.sum(cells.count * np.sum(direction * cells.mean, axis=1))) / total
    residual = direction.copy()
    residual[:, DENOMINATOR] -= value
    first, second, third = cells.along(residual)
    if by_cell:
        second, third = first**2, first**3
    squares, cubes = max(float(second.sum()), 0.0), float(third.sum())
    skewness = cubes / clusters / (squares / clusters) ** 1.5 if squares > 0 else 0.0
    return _Mean(value, (squares * clusters / max(clusters - 1, 1)) ** 0.5 / total, skewness)


def _linked(mean: _Mean, link: Link) -> _Mean:
    slope = link.derivative(mean.value)
    return _Mean(link.function(mean.value), abs(slope) * mean.stderr, mean.skewness * np.sign(slope))


def _checked(total: Moments) -> tuple[float, float, float]:
    """The mean of r − 1 a sequence and its 99.9% interval, which should hold 0.

    No clustering: whatever the prompt, the mean is 0.
    """
    n, mean = float(total.count[0]), float(total.mean[0, CHECK])
    second, third = float(total.comoment[0, CHECK, CHECK]), float(total.third[0, CHECK, CHECK, CHECK])
    if n < 2 or not second > 0:
        return mean, mean, mean
    skewness = third / n / (second / n) ** 1.5
    return mean, *skewed_interval(mean, (second / (n - 1) / n) ** 0.5, skewness, int(n), level=0.999)


def _warnings(recipe: Recipe, summary: Summary, cells: Moments, grouped: bool) -> Iterator[str]:
    name = recipe.estimator.name
    if summary.mismatches.count and summary.infinite:
        yield (
            f"support mismatch: the reference gives probability 0 to {summary.mismatches}; "
            "the policy draws what the reference excludes, so the KL is infinite"
        )
    if summary.overflows.count:
        yield (
            f"{name} overflows to inf at {summary.overflows}: "
            "the log-ratio there is beyond what exp can hold; k1 is finite on the same data"
        )
    unit = "token" if recipe.level == "token" else "sequence"
    for tail, what, advice in (
        (summary.weights, "a sequence's importance weight", "the value and its error may be far too small"),
        (summary.summands, f"a sequence's {name}", "the value and its error may be far too small"),
        (
            summary.ratios,
            f"a {unit}'s ratio p/q",
            "means of the ratio (k3, control variates) and their errors may be far too small; "
            "k1 and rao_blackwell do not average it",
        ),
    ):
        if tail.khat() >= HEAVY_TAIL:
            yield (
                f"heavy tail: {what} has k̂ = {tail.khat():.2f} ≥ {HEAVY_TAIL}, "
                f"so a few samples not seen yet may carry most of its mean: {advice}"
            )
    excess, low, high = _checked(cells.total()) if len(cells.count) else (0.0, 0.0, 0.0)
    if not low <= 0.0 <= high:
        what = "Σ_t(r_t − 1)" if recipe.level == "token" else "r − 1"
        yield (
            f"{what}, r = p/q, averages {excess:.3g} a sequence where 0 is expected: part of what the reference does "
            "was never sampled, or the log-probs are not those of the distribution that was sampled"
        )
    if recipe.truncation is not None and summary.weight_sums[1] != summary.weight_sums[0]:
        yield f"{recipe.truncation.name}: {recipe.truncation.bias}"
    if summary.prompts is not None and not grouped:
        yield "all rows have one prompt: the error is over its samples and says nothing of other prompts"
    if summary.rows == 1:
        yield "one sequence: no standard error can be given"
    if summary.empty:
        yield f"{summary.empty} row(s) without a counted token were left out"
