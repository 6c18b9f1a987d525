"""Rollouts as a batch that estimators take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kullback.errors import InputError
from kullback.estimation.features import FEATURES
from kullback.estimation.ragged import Ragged
from kullback.estimation.sequences import TOKEN_COLUMNS, Sequences
from kullback.rollouts.columns import Columns
from kullback.rollouts.record import Rollout


def to_sequences(rollouts: Sequence[Rollout]) -> Sequences:
    """Rollouts of one sampler as a padded batch in which q is what drew them and groups are prompts.

    Where behaviour log-probs stand beside both models', q is the sampled model as it was scored and they
    correct for what really drew the tokens; where one of the two models is missing, q is the behaviour policy
    and p the other. Columns that no row has are left out.

    Raises:
        InputError: no rollout, a column that some rows have and others lack, rows of two samplers, or values that
            cannot be right.
    """
    if not rollouts:
        raise InputError("no rollout came, but at least one is needed")
    sampler = rollouts[0].sampled_from
    _refuse_first(
        rollouts,
        lambda rollout: rollout.sampled_from != sampler,
        f"is not sampled from the {sampler} as rollout 0 is: pass the rollouts of one sampler at a time",
    )
    time = max(rollout.length for rollout in rollouts)
    columns = {name: _padded(rollouts, name, time) for name in TOKEN_COLUMNS if _all_have(rollouts, name)}
    several = {name: [getattr(r, name) for r in rollouts] for name in FEATURES if _all_have(rollouts, name)}
    q, p, behavior = _roles(columns, sampler)
    return Sequences.of(
        columns[q],
        columns[p],
        _padded(rollouts, "counted", time),
        behavior_logprobs=None if behavior is None else columns[behavior],
        token_kl=columns.get("token_kl"),
        ref_mass=columns.get("ref_mass"),
        groups=[rollout.prompt_id for rollout in rollouts] if _all_have(rollouts, "prompt_id") else None,
        **several,
    )


def to_ragged(columns: Columns) -> Ragged:
    """Rollouts by column as a batch that accumulators take, with the roles of `to_sequences`; nothing is padded.

    Args:
        columns: of one sampler, with `prompt_id` among their rows where the error is to be clustered.

    Raises:
        InputError: rows of two samplers, a prompt that some rows have and others lack, or values that cannot be right.
    """
    samplers = columns.rows.get("sampled_from", ("policy",))
    for at, sampler in enumerate(samplers):
        if sampler != samplers[0]:
            raise InputError(
                f"rollout {columns.first + at} is not sampled from the {samplers[0]} as rollout {columns.first} is: "
                "select the rollouts of one sampler at a time"
            )
    q, p, behavior = _roles(dict(columns.tokens), samplers[0])
    tokens = columns.tokens
    groups = columns.rows.get("prompt_id")
    if groups is not None and any(group is None for group in groups):
        raise InputError("some rollouts have a prompt_id and others none: leave prompt_id out, or name all prompts")
    return Ragged.of(
        tokens[q],
        tokens[p],
        columns.offsets,
        mask=tokens.get("mask"),
        behavior_logprobs=None if behavior is None else tokens[behavior],
        token_kl=tokens.get("token_kl"),
        ref_mass=tokens.get("ref_mass"),
        groups=groups,
        state=tokens.get("state"),
        deviation=tokens.get("deviation"),
        first=columns.first,
    )


def _roles(columns: dict[str, np.ndarray], sampler: str) -> tuple[str, str, str | None]:
    """The columns that are q, p and μ."""
    sides = [name for name in ("logprobs", "ref_logprobs") if name in columns]
    if not sides:
        raise InputError("the rollouts have behavior_logprobs alone: score their tokens with another model first")
    if len(sides) < 2:
        return "behavior_logprobs", sides[0], None
    q, p = sides if sampler == "policy" else reversed(sides)
    return q, p, "behavior_logprobs" if "behavior_logprobs" in columns else None


def _all_have(rollouts: Sequence[Rollout], name: str) -> bool:
    """Whether every rollout has the column; that some do is refused."""
    had = getattr(rollouts[0], name) is not None
    _refuse_first(
        rollouts,
        lambda rollout: (getattr(rollout, name) is not None) != had,
        f"has {'no' if had else 'a'} {name} and rollout 0 has {'one' if had else 'none'}: "
        "pass rollouts that all have the column, or set it to None in all of them",
    )
    return had


def _refuse_first(rollouts: Sequence[Rollout], wrong: Callable[[Rollout], bool], why: str) -> None:
    for number, rollout in enumerate(rollouts):
        if wrong(rollout):
            raise InputError(f"rollout {number} {why}")


def _padded(rollouts: Sequence[Rollout], name: str, time: int) -> np.ndarray:
    rows = (np.asarray(getattr(rollout, name)) for rollout in rollouts)
    return np.stack([np.pad(row, (0, time - len(row))) for row in rows])
