"""How many prompts, how many samples of each, and with which estimator, for a wished standard error.

A pilot splits the variance of a sequence's estimate into a part between prompts and a part within them,
σ_b² and σ_w². The mean over G prompts with m samples each then has variance σ_b²/G + σ_w²/(Gm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Chart, Panel, Series, Table, plain
from kullback.errors import InputError
from kullback.estimation.accumulator import estimate
from kullback.estimation.block import Tokens
from kullback.estimation.controls import CONTROLS
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimators import Estimator, Level
from kullback.jobs.estimates import TABLE
from kullback.rollouts import Rollout, read_rollouts, to_sequences

MOST = 1024
"""Samples a prompt that are considered at most."""

RESAMPLES = 500
"""Bootstrap samples of the pilot's prompts behind the range of a plan."""


@dataclass(frozen=True)
class Components:
    """Standard deviations of a sequence's estimate, nats: of prompts' means, and of samples of one prompt."""

    between: float
    within: float


@dataclass(frozen=True)
class PlanRow:
    """What one estimator needs.

    Attributes:
        pilot: its estimate from the pilot, nats a sequence.
        components: where its variance comes from.
        prompts, samples: how many to draw; None where no number of samples of the allowed prompts is enough.
        expected: the standard error that they give.
        tokens: to generate for them.
        low, high: 90% range of `prompts × samples` over resampled pilots.
        least_prompts: prompts below which no number of samples is enough.
    """

    estimator: str
    level: str
    pilot: Estimate
    components: Components
    prompts: int | None
    samples: int | None
    expected: float | None
    tokens: float | None
    low: float
    high: float
    least_prompts: int

    @property
    def sequences(self) -> int | None:
        """Prompts times samples."""
        return None if self.prompts is None or self.samples is None else self.prompts * self.samples


@dataclass(frozen=True)
class Plan:
    """What `plan` found.

    Attributes:
        wished: standard error, nats a sequence.
        most_prompts: prompts that can be had, None for as many as needed.
        pilot_prompts, pilot_sequences: of the pilot.
        prompt_tokens, completion_tokens: mean lengths in the pilot.
        read_cost: cost of reading a prompt's token, once a prompt, in generated tokens.
        rows: one for each estimator.
    """

    wished: float
    most_prompts: int | None
    pilot_prompts: int
    pilot_sequences: int
    prompt_tokens: float
    completion_tokens: float
    read_cost: float
    rows: tuple[PlanRow, ...]

    @property
    def cheapest(self) -> PlanRow | None:
        """The row that needs the fewest tokens, without a warning if one has none."""
        possible = [row for row in self.rows if row.tokens is not None]
        return min(possible, key=lambda row: (bool(row.pilot.warnings), row.tokens), default=None)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        rows = [{**asdict(row), "pilot": row.pilot.to_dict(), "sequences": row.sequences} for row in self.rows]
        return dict(plain({**asdict(self), "rows": rows}))

    def tables(self) -> tuple[Table, ...]:
        """What each estimator needs."""
        columns = ("nats/sequence", "σ prompts", "σ within", "prompts", "samples", "sequences", "90% range", "tokens")
        best = self.cheapest
        fewest = max(row.least_prompts for row in self.rows)
        advice = (
            f"No estimator reaches it: have at least {fewest:,} prompts."
            if best is None
            else f"Cheapest: {best.estimator} ({best.level}), {best.prompts:,} prompts × {best.samples}."
        )
        doubtful = [f"{row.estimator} ({row.level})" for row in self.rows if row.pilot.warnings]
        warned = f" Not to be trusted (heavy tails or worse in the pilot): {', '.join(doubtful)}." if doubtful else ""
        return (
            Table(
                title=f"For a standard error of {self.wished:.3g} nats a sequence",
                note=(
                    f"{advice}{warned} Pilot: {self.pilot_sequences:,} sequences of {self.pilot_prompts} prompts, "
                    f"{self.completion_tokens:.1f} tokens each. σ: standard deviation between prompts' means, and of "
                    "samples of one prompt. tokens: to generate; scoring them is not counted. 90% range: of the "
                    "sequences, over resampled pilots."
                ),
                columns=("estimator", "level", *columns),
                rows=tuple(_cells(row) for row in self.rows),
                right=columns,
            ),
        )

    def chart(self) -> Chart:
        """Tokens against samples a prompt, for the wished error."""
        samples = np.unique(np.geomspace(1, 64, 25).astype(int))
        series = tuple(
            Series.of(
                f"{row.estimator}, {row.level}",
                ((m, _prompts(row.components, int(m), self.wished) * m * self.completion_tokens) for m in samples),
            )
            for row in self.rows
        )
        return Chart(
            name="plan",
            text=(
                f"Tokens to generate for a standard error of {self.wished:.3g} nats a sequence, against the samples "
                "drawn of each prompt, by estimator."
            ),
            panels=(Panel(f"standard error {self.wished:.3g} nats", "samples a prompt", "tokens", series, "xy"),),
        )


def plan(
    pilot: str | Path | Sequence[Rollout],
    *,
    stderr: float | None = None,
    relative: float | None = None,
    most_prompts: int | None = None,
    read_cost: float = 0.1,
    estimators: Sequence[tuple[Estimator, Level]] = TABLE,
    seed: int = 0,
) -> Plan:
    """Prompts and samples a prompt at which each estimator has the wished standard error, at the least cost.

    For m samples of each prompt, G = ⌈(σ_b² + σ_w²/m)/stderr²⌉ prompts are needed; the m whose cost
    G(read_cost × prompt + m × completion) is least, in tokens, is chosen. Components are those of the one-way
    analysis of variance of the pilot; fitted coefficients are the pilot's. Where the pilot warns of heavy tails
    its variances, and so the plan, are too small.

    Args:
        pilot: a file of rollouts, or the rollouts, such as ``kullback.compare(…).rollouts``; those drawn from the
            policy are used. At least two prompts, and two samples of one.
        stderr: the wished standard error, nats a sequence; or
        relative: the same over the pilot's estimate with the least error.
        most_prompts: prompts that can be had; None for as many as needed.
        read_cost: of one prompt token, read once a prompt, in generated tokens.
        estimators: pairs of an estimator and a level.
        seed: of the resampling behind the ranges.

    Raises:
        InputError: none or both of stderr and relative, or a pilot that cannot tell prompts from samples.
        FileError: a file that is no table of rollouts.

    Reference: Searle, Casella & McCulloch 1992, “Variance Components”, ch. 3, for unbalanced data.

    Example:
        >>> import kullback as kb
        >>> pilot = kb.compare(samples=4, max_new_tokens=8).rollouts
        >>> found = kb.lab.plan(pilot, relative=0.05)
        >>> k1 = found.rows[0]
        >>> k1.estimator, k1.sequences == k1.prompts * k1.samples, k1.expected <= found.wished
        ('k1', True, True)
    """
    if (stderr is None) == (relative is None) or not (stderr or relative or 0) > 0 or read_cost < 0:
        raise InputError(
            f"stderr={stderr}, relative={relative} and read_cost={read_cost} came: give one positive error, in nats a "
            "sequence or relative to the KL, and a cost that is not negative"
        )
    drawn = [
        r for r in (read_rollouts(pilot) if isinstance(pilot, str | Path) else pilot) if r.sampled_from == "policy"
    ]
    if not drawn:
        raise InputError("the pilot has no sequence that was sampled from the policy")
    batch = to_sequences(drawn)
    keys, inverse = np.unique(np.asarray(batch.groups), return_inverse=True)
    if len(keys) < 2 or len(keys) == len(drawn):
        raise InputError(
            f"the pilot has {len(drawn)} sequences of {len(keys)} prompts: at least two prompts, and at least two "
            "samples of one, are needed to tell them apart"
        )
    found = [(estimator, level, *_estimated(batch, estimator, level)) for estimator, level in estimators]
    best = min((pilot_estimate for _, _, pilot_estimate, _ in found), key=lambda e: e.stderr)
    wished = stderr if stderr is not None else float(relative or 0.0) * abs(best.value)
    if not 0 < wished < np.inf:
        raise InputError(f"the pilot's KL is {best.value:g}, to which no error is relative: give stderr in nats")
    cost = _Cost(
        float(np.mean([len(rollout.prompt_tokens or ()) for rollout in drawn])) * read_cost,
        float(np.mean(batch.lengths)),
        most_prompts,
    )
    rng = np.random.default_rng(seed)
    return Plan(
        wished=wished,
        most_prompts=most_prompts,
        pilot_prompts=len(keys),
        pilot_sequences=len(drawn),
        prompt_tokens=float(np.mean([len(rollout.prompt_tokens or ()) for rollout in drawn])),
        completion_tokens=cost.completion,
        read_cost=read_cost,
        rows=tuple(
            _row(estimator.name, level, value, _Stats.of(rows, inverse), wished, cost, rng)
            for estimator, level, value, rows in found
        ),
    )


@dataclass(frozen=True)
class _Cost:
    """Of a prompt and of a sample, in generated tokens; and the prompts that can be had."""

    prompt: float
    completion: float
    most: int | None

    def best(self, components: Components, wished: float) -> tuple[int, int] | None:
        """Prompts and samples a prompt at the least cost."""
        samples = np.arange(1, MOST + 1)
        prompts = np.ceil((components.between**2 + components.within**2 / samples) / wished**2).clip(2)
        costs = prompts * (self.prompt + samples * self.completion)
        if self.most is not None:
            costs[prompts > self.most] = np.inf
        place = int(np.argmin(costs))
        return (int(prompts[place]), int(samples[place])) if np.isfinite(costs[place]) else None


@dataclass(frozen=True)
class _Stats:
    """Sufficient statistics of prompts: sample counts, means and sums of squares about them."""

    count: Float64
    mean: Float64
    squares: Float64

    @classmethod
    def of(cls, rows: Float64, prompt: np.ndarray) -> _Stats:
        count = np.bincount(prompt).astype(np.float64)
        mean = np.bincount(prompt, rows) / count
        squares = np.bincount(prompt, (rows - mean[prompt]) ** 2)
        return cls(count, mean, squares.astype(np.float64))

    def components(self, prompts: np.ndarray | slice = slice(None)) -> Components:
        """σ_b and σ_w by the analysis of variance, of some prompts."""
        n, mean = self.count[prompts], self.mean[prompts]
        total, groups = float(n.sum()), len(n)
        within = float(self.squares[prompts].sum()) / (total - groups) if total > groups else 0.0
        spread = float(n @ (mean - n @ mean / total) ** 2) / (groups - 1)
        size = (total - float(n @ n) / total) / (groups - 1)
        return Components(sqrt(max((spread - within) / size, 0.0)), sqrt(within))


def _row(
    name: str, level: str, value: Estimate, stats: _Stats, wished: float, cost: _Cost, rng: np.random.Generator
) -> PlanRow:
    components = stats.components()
    best = cost.best(components, wished)
    needed = []
    for _ in range(RESAMPLES):
        again = cost.best(stats.components(rng.integers(len(stats.count), size=len(stats.count))), wished)
        needed.append(float(again[0] * again[1]) if again else np.inf)
    low, high = (float(x) for x in np.quantile(needed, (0.05, 0.95), method="nearest"))
    prompts, samples = best or (None, None)
    return PlanRow(
        estimator=name,
        level=level,
        pilot=value,
        components=components,
        prompts=prompts,
        samples=samples,
        expected=sqrt((components.between**2 + components.within**2 / best[1]) / best[0]) if best else None,
        tokens=best[0] * best[1] * cost.completion if best else None,
        low=low,
        high=high,
        least_prompts=ceil((components.between**2 + components.within**2 / MOST) / wished**2),
    )


def _prompts(components: Components, samples: int, wished: float) -> int:
    return max(2, ceil((components.between**2 + components.within**2 / samples) / wished**2))


def _estimated(batch: Sequences, estimator: Estimator, level: Level) -> tuple[Estimate, Float64]:
    """The pilot's estimate, and each sequence's part of it with the pilot's coefficients."""
    if estimator.link is not None:
        raise InputError(f"{estimator.name} is a function of a mean, not a mean: its error cannot be planned so")
    value = estimate(
        batch.logprobs,
        batch.ref_logprobs,
        batch.mask,
        estimator=estimator,
        level=level,
        token_kl=batch.token_kl,
        ref_mass=batch.ref_mass,
        groups=batch.groups,
    )
    rows = []
    for block in batch.blocks():
        tokens = Tokens.of(block, level, None)
        x = tokens.token_kl if estimator.reads == "token_kl" else tokens.log_ratio
        with np.errstate(all="ignore"):
            part = tokens.sums(np.asarray(estimator.fn(x)))
            for name, coefficient in value.coefficients.items():
                part = part + coefficient * tokens.sums(CONTROLS[name].fn(tokens))
        rows.append(part)
    together = np.concatenate(rows)
    if not np.isfinite(together).all():
        raise InputError(f"{estimator.name} is infinite on the pilot: the reference excludes what the policy draws")
    return value, together


def _cells(row: PlanRow) -> tuple[str, ...]:
    start = (
        row.estimator,
        row.level,
        str(row.pilot).partition(" nats/")[0],
        f"{row.components.between:.3g}",
        f"{row.components.within:.3g}",
    )
    if row.prompts is None or row.samples is None or row.sequences is None or row.tokens is None:
        return (*start, f"> {row.least_prompts:,}", "–", "–", "–", "–")
    high = "∞" if np.isinf(row.high) else f"{row.high:,.0f}"
    numbers = (f"{row.prompts:,}", str(row.samples), f"{row.sequences:,}", f"{row.low:,.0f} to {high}")
    return (*start, *numbers, f"{row.tokens:,.0f}")
