"""The table of estimates that a comparison gives, from the rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from typing import Literal

import numpy as np

from kullback.documents import Record, plain
from kullback.errors import InputError
from kullback.estimation.accumulator import estimate
from kullback.estimation.recipe import Unit
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimators import (
    K1,
    K3,
    LEVELS,
    RAO_BLACKWELL,
    RAO_BLACKWELL_CONTROLLED,
    RATIO,
    ControlVariate,
    Estimator,
    Level,
)
from kullback.jobs.plans import Role
from kullback.jobs.wishes import error_here
from kullback.rollouts import Rollout, to_sequences

TABLE: tuple[tuple[Estimator, Level], ...] = (
    (K1, "token"),
    (K3, "token"),
    (K3, "sequence"),
    (ControlVariate("fit"), "token"),
    (RAO_BLACKWELL, "token"),
    (RAO_BLACKWELL_CONTROLLED, "token"),
)
"""What compare estimates unless told otherwise."""

QUOTED = ("rao_blackwell", "rao_blackwell_controlled", "k3", "control_variate", "k1")
"""Estimators of KL(policy‖reference), the one to quote first; the controlled one is before all with token values."""

Direction = Literal["reverse", "forward"]

DIRECTIONS: Mapping[Role, Direction] = {"policy": "reverse", "reference": "forward"}
"""The KL that is estimated from what was sampled in a model's name."""


@dataclass(frozen=True)
class Row:
    """One estimator's answer.

    Attributes:
        direction: "reverse" KL(policy‖reference), from the policy's samples; "forward" KL(reference‖policy).
        per_sequence, per_token: the estimate in the two units.
        relative_variance: variance of `per_sequence` over that of k1 on the same samples, given these prompts where
            there are several samples of each.
        sequences_for_one_percent: sequences of these prompts at which the 95% interval given them would be ±1% of the
            value; of any prompts where there is one sample of each.
        prompts_for_one_percent: prompts, with as many samples of each, at which the interval for prompts drawn anew
            would be ±1%: samples alone never get there.
    """

    direction: Direction
    per_sequence: Estimate
    per_token: Estimate
    relative_variance: float
    sequences_for_one_percent: float
    prompts_for_one_percent: float

    def to_dicts(self) -> list[Record]:
        """The two records that ``--json`` prints."""
        extra = {
            "direction": self.direction,
            "relative_variance": plain(self.relative_variance),
            "sequences_for_one_percent": plain(self.sequences_for_one_percent),
            "prompts_for_one_percent": plain(self.prompts_for_one_percent),
        }
        return [{**estimate.to_dict(), **extra} for estimate in (self.per_sequence, self.per_token)]


def quoted(rows: Sequence[Row], *, truncated: bool) -> Row:
    """The row of KL(policy‖reference) to quote, chosen by name and never by its error, which would be a choice by luck.

    Args:
        rows: of any directions.
        truncated: whether top-p or top-k cut the policy off, where k3 may be biased low and k1 is not.

    Raises:
        InputError: no row estimates this KL.
    """
    order = (*QUOTED[:2], "k1", *QUOTED[2:]) if truncated else QUOTED
    reverse = [row for row in rows if row.direction == "reverse"]
    # By the columns that are at hand: without them its controls gain nothing, and its fit may lose.
    if any("token_values" in row.per_sequence.coefficients for row in reverse):
        order = ("rao_blackwell_controlled", *order)
    for level in LEVELS:
        named = {row.per_sequence.estimator: row for row in reverse if row.per_sequence.level == level}
        for name in order:
            if name in named:
                return named[name]
    raise InputError(f"no estimate of KL(policy‖reference) is among these: ask for one of {', '.join(QUOTED)}")


def quote(rollouts: Sequence[Rollout], estimators: Sequence[tuple[Estimator, Level]], *, truncated: bool) -> Estimate:
    """The estimate that `quoted` quotes, in nats a sequence, without the fits of all the others where it can be."""
    own = [rollout for rollout in rollouts if rollout.sampled_from == "policy"]
    for estimator, level in estimators:
        if estimator.valued and level == "token" and all(rollout.deviation is not None for rollout in own):
            batch, outside = _sampled(own)
            found = _estimate(batch, estimator, level, "sequence", outside)
            if "token_values" in found.coefficients:
                return found
    return quoted([*estimate_rows(own, estimators)], truncated=truncated).per_sequence


def check_levels(estimators: Sequence[tuple[Estimator, Level]]) -> None:
    """Refuse an estimator at a level that it has not, before anything is sampled.

    Raises:
        InputError: by name.
    """
    if not estimators:
        raise InputError("no estimator was asked for: name one, such as k1, or leave the table as it is")
    for estimator, level in estimators:
        if estimator.link is not None and level != "sequence":
            raise InputError(
                f"{estimator.name} came at the level of a {level}, but it is a function of a mean over whole "
                f"sequences: ask for {estimator.name} at the level sequence"
            )


def estimable(estimators: Sequence[tuple[Estimator, Level]], *, exact: bool) -> tuple[tuple[Estimator, Level], ...]:
    """The estimators for which there are columns: all, or those of log-ratios."""
    found = tuple(pair for pair in estimators if exact or pair[0].reads != "token_kl")
    if not found:
        raise InputError(
            "only estimators of exact token KLs were asked for, and one of the models gives log-probs only: "
            "ask for kullback.K1 or K3 too"
        )
    return found


def estimate_rows(rollouts: Sequence[Rollout], estimators: Sequence[tuple[Estimator, Level]]) -> Iterator[Row]:
    """A row for each estimator in each direction that was sampled."""
    for role, direction in DIRECTIONS.items():
        part = [rollout for rollout in rollouts if rollout.sampled_from == role]
        if not part:
            continue
        batch, outside = _sampled(part)
        baseline = _estimate(batch, K1, "token", "sequence", outside)
        for estimator, level in estimators:
            value = _estimate(batch, estimator, level, "sequence", outside)
            yield Row(
                direction=direction,
                per_sequence=value,
                per_token=_per_token(value) if estimator.link else _estimate(batch, estimator, level, "token", outside),
                relative_variance=(error_here(value) / error_here(baseline)) ** 2 if baseline.stderr else nan,
                sequences_for_one_percent=_times_for_one_percent(value, error_here(value)) * value.n,
                prompts_for_one_percent=_times_for_one_percent(value, value.stderr) * value.clusters,
            )


def _sampled(rollouts: Sequence[Rollout]) -> tuple[Sequences, float]:
    """Rollouts as columns, and what the other model gives on average to what is never drawn."""
    return to_sequences(rollouts), float(np.mean([_outside(rollout) for rollout in rollouts]))


def _times_for_one_percent(found: Estimate, stderr: float) -> float:
    """How many times as much data makes 1.96 standard errors 1% of the value."""
    return (1.96 * stderr / (0.01 * found.value)) ** 2 if found.value else inf


def _per_token(value: Estimate) -> Estimate:
    """Of a function of a mean over sequences there is nothing a token."""
    return replace(
        value,
        value=nan,
        stderr=nan,
        skewness=nan,
        clusters=0,
        unit="token",
        warnings=(),
        given_prompts=None,
        influential=(),
    )


def _outside(rollout: Rollout) -> float:
    """The other model's probability, summed over tokens, of what the sampled one excludes; 0 where it is not known."""
    # A bias can be named only where it can be seen; that it cannot is among the comparison's notes.
    return 0.0 if rollout.ref_mass is None else float(np.sum(1.0 - rollout.ref_mass[rollout.counted]))


def _estimate(batch: Sequences, estimator: Estimator, level: Level, unit: Unit, outside: float) -> Estimate:
    found = estimate(
        batch.logprobs,
        batch.ref_logprobs,
        batch.mask,
        estimator=estimator,
        level=level,
        unit=unit,
        behavior_logprobs=batch.behavior_logprobs,
        token_kl=batch.token_kl,
        ref_mass=batch.ref_mass,
        groups=batch.groups,
        state=batch.state,
        deviation=batch.deviation,
    )
    corrected = level == "token" and RATIO in estimator.controls  # by ref_mass
    slope = 1.0 if RATIO in estimator.controls else estimator.slope
    if corrected or slope * outside < 1e-4:
        return found
    warning = (
        f"biased low by about {slope * outside:.3g} nats a sequence: the other model gives that much probability to "
        "tokens that are never drawn, since top-p or top-k excludes them or the sampled model lacks them; read k1 or "
        "rao_blackwell"
    )
    return replace(found, warnings=(*found.warnings, warning))
