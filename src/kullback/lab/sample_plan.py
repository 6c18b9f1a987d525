"""How many prompts, how many samples of each, and with which estimator, for a wished standard error.

A pilot splits the variance of a sequence's estimate into a part between prompts and a part within them,
σ_b² and σ_w². The mean over G prompts with m samples each then has variance σ_b²/G + σ_w²/(Gm) for prompts drawn
anew, and σ_w²/(Gm) for these prompts, which an evaluation set is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, nan, sqrt
from pathlib import Path
from typing import TypeVar

import numpy as np

from kullback.arrays import Float64
from kullback.documents import MISSING, Chart, Document, Number, Panel, Record, Series, plain
from kullback.errors import InputError
from kullback.estimation.accumulator import estimate
from kullback.estimation.block import Block
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimators import Estimator, Level
from kullback.jobs.estimates import TABLE
from kullback.lab.cells import Columns, Span, table_of
from kullback.lab.outcome import ExperimentOutcome
from kullback.rollouts import Rollout, read_rollouts, to_sequences

MOST = 1024
"""Samples a prompt that are considered at most."""

RESAMPLES = 500
"""Bootstrap samples of the pilot's prompts behind the range of a plan."""

M = TypeVar("M", float, Float64)


@dataclass(frozen=True)
class Components:
    """Standard deviations of a sequence's estimate, nats: of prompts' means, and of samples of one prompt."""

    between: float
    within: float

    def variance(self, samples: M) -> M:
        """Of the mean of so many samples of one random prompt, σ_b² + σ_w²/m."""
        return self.between**2 + self.within**2 / samples


@dataclass(frozen=True)
class PlanRow:
    """What one estimator needs.

    Attributes:
        pilot: its estimate from the pilot, nats a sequence.
        components: where its variance comes from.
        prompts, samples: how many to draw; None where no number of samples of the allowed prompts is enough.
        expected: the standard error that they give.
        tokens: to generate for them.
        samples_given_prompts: of each of the pilot's prompts, for the same error of these prompts alone.
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
    samples_given_prompts: int
    low: float
    high: float
    least_prompts: int

    @property
    def sequences(self) -> int | None:
        """Prompts times samples."""
        return None if self.prompts is None or self.samples is None else self.prompts * self.samples


@dataclass(frozen=True)
class Plan(ExperimentOutcome):
    """What `plan` found.

    Attributes:
        wished: standard error, nats a sequence.
        most_prompts: prompts that can be had, None for as many as needed.
        pilot_prompts, pilot_sequences: of the pilot.
        prompt_tokens, completion_tokens: mean lengths in the pilot.
        read_cost: cost of reading a prompt's token, once a prompt, in generated tokens.
        rows: one for each estimator.

    Example:
        >>> import kullback as kb
        >>> pilot = kb.compare(samples=4, max_new_tokens=8).rollouts
        >>> found = kb.lab.plan(pilot, stderr=0.2)
        >>> best = found.cheapest
        >>> best.tokens == min(row.tokens for row in found.rows if not row.pilot.warnings)
        True
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

    def to_dict(self) -> Record:
        """What ``--json`` prints."""
        rows = [{**asdict(row), "pilot": row.pilot.to_dict(), "sequences": row.sequences} for row in self.rows]
        return dict(plain({**asdict(self), "rows": rows}))

    def document(self) -> Document:
        """What each estimator needs, and tokens against samples a prompt, for the wished error."""
        return _document(self)


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

    Prompts are taken to be drawn anew. For m samples of each prompt, G = ⌈(σ_b² + σ_w²/m)/stderr²⌉ prompts are needed;
    the m whose cost G(read_cost × prompt + m × completion) is least, in tokens, is chosen. For the pilot's own prompts
    alone σ_w²/(G stderr²) samples of each are enough. Components are those of the one-way analysis of variance of the
    pilot; fitted coefficients are the pilot's. Where the pilot warns of heavy tails its variances, and so the plan, are
    too small.

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
    drawn = _drawn(pilot)
    batch = to_sequences(drawn)
    keys, prompt = np.unique(np.asarray(batch.groups), return_inverse=True)
    if len(keys) < 2 or len(keys) == len(drawn):
        raise InputError(
            f"the pilot has {len(drawn)} sequences of {len(keys)} prompts: at least two prompts, and at least two "
            "samples of one, are needed to tell them apart"
        )
    found = [_estimated(batch, estimator, level) for estimator, level in estimators]
    best = min((value for value, _ in found), key=lambda value: value.stderr)
    wished = stderr if stderr is not None else float(relative or 0.0) * abs(best.value)
    if not 0 < wished < np.inf:
        raise InputError(f"the pilot's KL is {best.value:g}, to which no error is relative: give stderr in nats")
    prompt_tokens = float(np.mean([len(rollout.prompt_tokens or ()) for rollout in drawn]))
    budget = _Budget(
        wished=wished,
        prompt=prompt_tokens * read_cost,
        completion=float(np.mean(batch.lengths)),
        most=most_prompts,
    )
    rng = np.random.default_rng(seed)
    return Plan(
        wished=wished,
        most_prompts=most_prompts,
        pilot_prompts=len(keys),
        pilot_sequences=len(drawn),
        prompt_tokens=prompt_tokens,
        completion_tokens=budget.completion,
        read_cost=read_cost,
        rows=tuple(_row(value, _Stats.of(rows, prompt), budget, rng) for value, rows in found),
    )


def _drawn(pilot: str | Path | Sequence[Rollout]) -> list[Rollout]:
    """What the policy drew."""
    rollouts = read_rollouts(pilot) if isinstance(pilot, str | Path) else pilot
    drawn = [rollout for rollout in rollouts if rollout.sampled_from == "policy"]
    if not drawn:
        raise InputError("the pilot has no sequence that was sampled from the policy")
    return drawn


@dataclass(frozen=True)
class _Budget:
    """The wished standard error; what a prompt and a sample cost, in generated tokens; the prompts to be had."""

    wished: float
    prompt: float
    completion: float
    most: int | None

    def best(self, components: Components) -> tuple[int, int] | None:
        """Prompts and samples a prompt at the least cost."""
        samples = np.arange(1.0, MOST + 1)
        prompts = np.ceil(components.variance(samples) / self.wished**2).clip(2)
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


def _row(value: Estimate, stats: _Stats, budget: _Budget, rng: np.random.Generator) -> PlanRow:
    components = stats.components()
    best = budget.best(components)
    needed = []
    for _ in range(RESAMPLES):
        again = budget.best(stats.components(rng.integers(len(stats.count), size=len(stats.count))))
        needed.append(float(again[0] * again[1]) if again else np.inf)
    low, high = (float(x) for x in np.quantile(needed, (0.05, 0.95), method="nearest"))
    prompts, samples = best or (None, None)
    return PlanRow(
        estimator=value.estimator,
        level=value.level,
        pilot=value,
        components=components,
        prompts=prompts,
        samples=samples,
        expected=sqrt(components.variance(best[1]) / best[0]) if best else None,
        tokens=best[0] * best[1] * budget.completion if best else None,
        samples_given_prompts=max(2, ceil(components.within**2 / len(stats.count) / budget.wished**2)),
        low=low,
        high=high,
        least_prompts=ceil(components.variance(MOST) / budget.wished**2),
    )


def _prompts(components: Components, samples: int, wished: float) -> int:
    return max(2, ceil(components.variance(samples) / wished**2))


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
        tokens = Block.of(block, level, None)
        x = tokens.token_kl if estimator.reads == "token_kl" else tokens.log_ratio
        with np.errstate(all="ignore"):
            part = tokens.sums(np.asarray(estimator.fn(x)))
            for control in estimator.controls:
                part = part + value.coefficients[control.name] * tokens.sums(control.fn(tokens))
        rows.append(part)
    together = np.concatenate(rows)
    if not np.isfinite(together).all():
        raise InputError(f"{estimator.name} is infinite on the pilot: the reference excludes what the policy draws")
    return value, together


def _document(found: Plan) -> Document:
    table = table_of(
        found.rows,
        COLUMNS,
        title=f"For a standard error of {found.wished:.3g} nats a sequence",
        note=(
            f"{_advice(found)} Pilot: {found.pilot_sequences:,} sequences of {found.pilot_prompts} prompts, "
            f"{found.completion_tokens:.1f} tokens each. σ: standard deviation between prompts' means, and of "
            "samples of one prompt. Both count where prompts are drawn anew, as for “prompts” and “samples”; for the "
            f"pilot's own {found.pilot_prompts} prompts (an evaluation set) σ within alone does: “samples, these "
            "prompts” of each give them this error (stderr_given_prompts). tokens: to generate; scoring them is not "
            "counted. 90% range: of the sequences, over resampled pilots."
        ),
        words=2,
    )
    return Document("How many prompts and samples to draw", (table, _chart(found)))


def _advice(found: Plan) -> str:
    """What to draw, and which estimators not to trust."""
    best = found.cheapest
    advice = (
        f"No estimator reaches it: have at least {max(row.least_prompts for row in found.rows):,} prompts."
        if best is None
        else f"Cheapest: {best.estimator} ({best.level}), {best.prompts:,} prompts × {best.samples}."
    )
    doubtful = ", ".join(f"{row.estimator} ({row.level})" for row in found.rows if row.pilot.warnings)
    return f"{advice} Not to be trusted (heavy tails or worse in the pilot): {doubtful}." if doubtful else advice


COLUMNS: Columns[PlanRow] = {
    "estimator": lambda row: row.estimator,
    "level": lambda row: row.level,
    "nats/sequence": lambda row: row.pilot.rounded,
    "σ prompts": lambda row: Number(row.components.between, ".3g"),
    "σ within": lambda row: Number(row.components.within, ".3g"),
    "prompts": lambda row: f"> {row.least_prompts:,}" if row.prompts is None else Number(row.prompts, ",.0f"),
    "samples": lambda row: _count(row.samples, ".0f"),
    "sequences": lambda row: _count(row.sequences),
    "samples, these prompts": lambda row: Number(row.samples_given_prompts, ",.0f"),
    "90% range": lambda row: MISSING if row.prompts is None else Span(row.low, row.high),
    "tokens": lambda row: _count(row.tokens),
}


def _count(number: float | None, form: str = ",.0f") -> Number:
    return Number(nan if number is None else number, form)


def _chart(found: Plan) -> Chart:
    samples = [int(m) for m in np.unique(np.geomspace(1, 64, 25).astype(int))]
    series = tuple(
        Series.of(
            f"{row.estimator}, {row.level}",
            ((m, _prompts(row.components, m, found.wished) * m * found.completion_tokens) for m in samples),
        )
        for row in found.rows
    )
    return Chart(
        name="plan",
        text=(
            f"Tokens to generate for a standard error of {found.wished:.3g} nats a sequence, against the samples "
            "drawn of each prompt, by estimator."
        ),
        panels=(Panel(f"standard error {found.wished:.3g} nats", "samples a prompt", "tokens", series, "xy"),),
    )
