"""Every promise of an estimator, computed by enumeration and held against every named target."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from worlds import FAR, generic, world

from kullback.estimators import LEVELS, Estimator
from kullback.oracle import World
from kullback.targets import TARGETS, Target

NAMED = tuple(target for target in TARGETS if target.place != "sampled")
"""On-policy, the prefixes that were sampled are the policy's, so those targets have two names."""

PROMISES = ("value_of", "loss_gradient_of", "reward_gradient_of")
FIXED = (generic(), generic(seed=2), FAR)


@cache
def fixed_world(number: int) -> World:
    policy, reference, horizon = FIXED[number]
    return world(policy, reference, horizon, lambda x: torch.tensor(x, requires_grad=True))


def delivered(promise: str, estimator: Estimator, level: str, at: World) -> torch.Tensor:
    """What an estimator's expectation, or the gradient it is used for, is exactly."""
    k = at.summand(estimator, level)
    if promise == "value_of":
        return (at.probability * k).sum().detach()
    if promise == "loss_gradient_of":
        surrogate = (at.probability * k).sum()
    else:
        surrogate = (at.probability * k.detach() * at.policy.sequence_logprobs).sum()
    return gradient(surrogate, at)


@cache
def delivered_there(promise: str, estimator: Estimator, level: str, number: int) -> torch.Tensor:
    return delivered(promise, estimator, level, fixed_world(number))


def gradient(value: torch.Tensor, at: World) -> torch.Tensor:
    found = torch.autograd.grad(value, at.policy.logits, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(at.policy.logits) if found is None else found


@cache
def meant(promise: str, target: Target, number: int) -> torch.Tensor:
    at = fixed_world(number)
    value = target.exact(at)
    return value.detach() if promise == "value_of" else gradient(value, at)


def agree(got: Any, want: Any) -> bool:
    got, want = np.asarray(got), np.asarray(want)
    return bool(np.linalg.norm(got - want) <= 1e-10 * max(np.linalg.norm(want), 1e-3))


def holds(promise: str, estimator: Estimator, level: str, target: Target | None) -> bool:
    """Whether a target is delivered in every fixed world, and whether it is the only one that is."""
    same = {
        other.value_of or other if promise == "value_of" else other
        for other in NAMED
        if _always(promise, estimator, level, other)
    }
    return same == ({target} if target is not None else set())


def _always(promise: str, estimator: Estimator, level: str, target: Target) -> bool:
    return all(
        agree(delivered_there(promise, estimator, level, i), meant(promise, target, i)) for i in range(len(FIXED))
    )


def broken_promises(estimator: Estimator) -> Iterator[tuple[str, str]]:
    """(promise, level) of every promise that does not hold, or is not the only one that does."""
    for promise in PROMISES:
        for level in LEVELS:
            if not holds(promise, estimator, level, getattr(estimator, promise)[level]):
                yield promise, level
    if estimator.nonnegative != never_negative(estimator):
        yield "nonnegative", "token"


def never_negative(estimator: Estimator) -> bool:
    x = np.concatenate([sign * 10.0 ** np.linspace(-9, 2.8, 2000) for sign in (1, -1)]).astype(np.float32)
    if estimator.reads == "token_kl":
        x = np.abs(x)
    with np.errstate(all="ignore"):
        return bool(np.all(estimator.fn(x) >= 0))
