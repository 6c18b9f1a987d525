"""The rows of a step, handed to the monitor."""

from __future__ import annotations

from collections.abc import Sequence

from kullback.errors import InputError
from kullback.monitoring import KLMonitor
from kullback.rollouts import Rollout


def feed(monitor: KLMonitor, rollouts: Sequence[Rollout], step: int) -> None:
    """Add the rows of a step.

    The policy is what was scored as such; where only the sampler and the reference are known, the sampler is.

    Raises:
        InputError: rows that have log-probs of one law alone, or that cannot be right.
    """
    kinds: dict[tuple[bool, ...], list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.sampled_from == "policy" and rollout.counted.any():
            kinds.setdefault(_kind(rollout), []).append(rollout)
    for rows in kinds.values():
        _feed(monitor, rows, step)


def _kind(rollout: Rollout) -> tuple[bool, ...]:
    columns = (rollout.logprobs, rollout.ref_logprobs, rollout.behavior_logprobs, rollout.token_kl, rollout.prompt_id)
    return tuple(column is not None for column in columns)


def _feed(monitor: KLMonitor, rows: Sequence[Rollout], step: int) -> None:
    policy, reference, sampler, token_kl, prompt = _kind(rows[0])
    if policy + reference + sampler < 2:
        raise InputError(
            "the rows have the sampler's log-probs alone, and a KL is of two: have those of the policy or of the "
            "reference dumped too"
        )
    monitor.update(
        [row.logprobs if policy else row.behavior_logprobs for row in rows],
        [row.ref_logprobs for row in rows] if reference else None,
        [row.counted for row in rows],
        behavior_logprobs=[row.behavior_logprobs for row in rows] if policy and sampler else None,
        token_kl=[row.token_kl for row in rows] if token_kl and reference else None,
        groups=[row.prompt_id for row in rows] if prompt else None,
        step=step,
    )
