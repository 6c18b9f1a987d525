"""Exact moments of the gradient that a loss function gives, by enumerating the batches it could see."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kullback.arrays import Array, Float64, is_torch, namespace
from kullback.errors import InputError
from kullback.oracle.world import World
from kullback.targets import Target

BATCHES = 100_000
"""Batches that are enumerated at most."""


@dataclass(frozen=True)
class LossMoments:
    """Exact expectations over the batches a loss could see.

    Attributes:
        value: E[L].
        gradient: E[∇L], in the shape of the policy's logits.
        covariance: Cov[∇L], flattened.
    """

    value: float
    gradient: Float64
    covariance: Float64

    @property
    def variance(self) -> float:
        """Trace of the covariance."""
        return float(np.trace(self.covariance))


def loss_moments(
    world: World, loss: Callable[..., Array], *, rows: int = 1, columns: Mapping[str, str] | None = None
) -> LossMoments:
    """E and Cov of a loss and its gradient in the policy's logits, over all batches of independent sequences.

    Args:
        world: models over torch logits; the policy's must require a gradient.
        loss: called as loss(logprobs, ref_logprobs, mask, …) on (rows, horizon) tensors, with every further
            parameter it names that `COLUMNS` has; returns a scalar or one number a row, whose mean is taken.
        rows: sequences of a batch; leave-one-out baselines need two.
        columns: other names under which the loss takes columns, such as ``{"old_logprobs": "behavior_logprobs"}``.

    Raises:
        InputError: logits without a gradient, or too many batches to enumerate.

    Example:
        In the loss, k3 follows the other KL:

        >>> import torch, kullback as kb
        >>> from kullback.oracle import TreeLM, World, exact_gradient, loss_moments
        >>> logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
        >>> world = World(TreeLM(logits, 0, 1), TreeLM(torch.zeros(1, 2, dtype=torch.float64), 0, 1))
        >>> got = loss_moments(world, lambda q, p, mask: kb.K3(q - p).sum(-1)).gradient
        >>> bool(abs(got - exact_gradient(world, kb.FORWARD_KL)).max() < 1e-12)
        True
    """
    logits = world.policy.logits
    _require_gradient(logits)
    count = len(world.policy.tokens)
    if count**rows > BATCHES:
        raise InputError(
            f"{count} sequences make {count**rows:,} batches of {rows}, over {BATCHES:,}: use a smaller world"
        )
    available = world_columns(world)
    wanted = _wanted(loss, columns or {})
    chance = world.probability.detach().cpu().numpy()
    value, size = 0.0, logits.numel()
    first, second = np.zeros(size), np.zeros((size, size))
    for batch in itertools.product(range(count), repeat=rows):
        p = float(np.prod(chance[list(batch)]))
        if p == 0.0:
            continue
        arrays = [available[name][list(batch)] for name in ("logprobs", "ref_logprobs", "mask")]
        result = loss(*arrays, **{key: available[name][list(batch)] for key, name in wanted.items()}).mean()
        g = gradient_of(result, logits).ravel()
        value += p * float(result.detach())
        first += p * g
        second += p * np.outer(g, g)
    return LossMoments(value, first.reshape(tuple(logits.shape)), second - np.outer(first, first))


def exact_gradient(world: World, target: Target) -> Float64:
    """∇ of a target in the policy's logits; prefixes of statewise targets are held fixed."""
    _require_gradient(world.policy.logits)
    return gradient_of(world.exact(target), world.policy.logits)


def gradient_of(value: Array, logits: Array) -> Float64:
    """d value / d logits as NumPy, zeros where value does not depend on them."""
    import torch

    if not value.requires_grad:
        return np.zeros(tuple(logits.shape))
    found = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)[0]
    return np.zeros(tuple(logits.shape)) if found is None else np.asarray(found.cpu().numpy(), dtype=np.float64)


def world_columns(world: World) -> dict[str, Array]:
    """Every column of a batch that holds each sequence of a world once."""
    policy, reference = world.policy, world.reference
    xp = namespace(policy.logits)
    places = policy._constant(policy.places)
    return {
        "logprobs": policy.logprobs,
        "ref_logprobs": reference.logprobs,
        "behavior_logprobs": world.sampler.logprobs.detach(),
        "mask": policy._constant(policy.mask),
        "tokens": policy._constant(policy.tokens),
        "token_kl": world.token_kl,
        "reverse_token_kl": World(reference, policy).token_kl,
        "log_distributions": xp.reshape(policy.log_distributions[places], (*places.shape, policy.vocab)),
        "ref_log_distributions": xp.reshape(reference.log_distributions[places], (*places.shape, policy.vocab)),
    }


def _wanted(loss: Callable[..., Array], columns: Mapping[str, str]) -> dict[str, str]:
    named = (
        "behavior_logprobs",
        "tokens",
        "token_kl",
        "reverse_token_kl",
        "log_distributions",
        "ref_log_distributions",
    )
    aliases = {**{name: name for name in named}, **columns}
    parameters = list(inspect.signature(loss).parameters)[3:]
    return {name: aliases[name] for name in parameters if name in aliases}


def _require_gradient(logits: Any) -> None:
    if not (is_torch(logits) and logits.requires_grad):
        raise InputError("the policy's logits must be a torch tensor with requires_grad=True")
