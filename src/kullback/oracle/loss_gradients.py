"""Exact moments of the gradient that a loss function gives, by enumerating the batches it could see."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Array, Float64, is_torch, namespace, stop_gradient
from kullback.errors import InputError
from kullback.oracle.world import World
from kullback.targets import Target

if TYPE_CHECKING:
    import torch

BATCHES = 100_000
"""Batches that are enumerated at most."""

COLUMNS = (
    "behavior_logprobs",
    "tokens",
    "token_kl",
    "reverse_token_kl",
    "log_distributions",
    "ref_log_distributions",
)
"""What a loss may name after its three leading arrays."""


@dataclass(frozen=True)
class LossMoments:
    """Exact expectations over the batches a loss could see.

    Attributes:
        value: E[L].
        gradient: E[∇L], in the shape of the policy's logits.
        covariance: Cov[∇L], flattened.

    Example:
        >>> import numpy as np
        >>> from kullback.oracle import LossMoments
        >>> LossMoments(0.5, np.zeros((1, 2)), np.diag([2.0, 1.0])).variance
        3.0
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
        InputError: logits without a gradient, too many batches to enumerate, or a loss that is no torch tensor.

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
    logits = torch_logits(world)
    count = len(world.policy.tokens)
    if count**rows > BATCHES:
        raise InputError(
            f"{count} sequences make {count**rows:,} batches of {rows}, over {BATCHES:,}: use a smaller world"
        )
    available = torch_columns(world)
    wanted = _wanted(loss, columns or {})
    chance = _tensor(world.probability, "the probability").detach().cpu().numpy()
    value, size = 0.0, logits.numel()
    first, second = np.zeros(size), np.zeros((size, size))
    for batch in itertools.product(range(count), repeat=rows):
        p = float(np.prod(chance[list(batch)]))
        if p == 0.0:
            continue
        arrays = [available[name][list(batch)] for name in ("logprobs", "ref_logprobs", "mask")]
        result = loss(*arrays, **{key: available[name][list(batch)] for key, name in wanted.items()})
        mean = _tensor(result, "the loss").mean()
        g = gradient_of(mean, logits).ravel()
        value += p * float(mean.detach())
        first += p * g
        second += p * np.outer(g, g)
    return LossMoments(value, first.reshape(tuple(logits.shape)), second - np.outer(first, first))


def exact_gradient(world: World, target: Target) -> Float64:
    """∇ of a target in the policy's logits; prefixes of statewise targets are held fixed.

    Raises:
        InputError: logits that are no torch tensor with a gradient.

    Example:
        ∇KL(q‖p) is q(ℓ − KL), here against a uniform reference:

        >>> import torch, kullback as kb
        >>> from kullback.oracle import TreeLM, World, exact_gradient
        >>> logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
        >>> world = World(TreeLM(logits, 0, 1), TreeLM(torch.zeros(1, 2, dtype=torch.float64), 0, 1))
        >>> exact_gradient(world, kb.REVERSE_KL).round(4).tolist()
        [[0.1966, -0.1966]]
    """
    logits = torch_logits(world)
    return gradient_of(world.exact(target), logits)


def gradient_of(value: Array, logits: Array) -> Float64:
    """d value / d logits as NumPy, zeros where value does not depend on them."""
    import torch

    live, leaf = _tensor(value, "the value"), _tensor(logits, "the policy's logits")
    if not live.requires_grad:
        return np.zeros(tuple(leaf.shape))
    found = torch.autograd.grad(live, leaf, retain_graph=True, allow_unused=True)[0]
    return np.zeros(tuple(leaf.shape)) if found is None else np.asarray(found.cpu().numpy(), dtype=np.float64)


def world_columns(world: World) -> dict[str, Array]:
    """Every column of a batch that holds each sequence of a world once."""
    policy, reference = world.policy, world.reference
    xp = namespace(policy.logits)
    places = policy.constant(policy.places)
    return {
        "logprobs": policy.logprobs,
        "ref_logprobs": reference.logprobs,
        "behavior_logprobs": stop_gradient(world.sampler.logprobs),
        "mask": policy.constant(policy.mask),
        "tokens": policy.constant(policy.tokens),
        "token_kl": world.token_kl,
        "reverse_token_kl": World(reference, policy).token_kl,
        "log_distributions": xp.reshape(policy.log_distributions[places], (*places.shape, policy.vocab)),
        "ref_log_distributions": xp.reshape(reference.log_distributions[places], (*places.shape, policy.vocab)),
    }


def torch_columns(world: World) -> dict[str, torch.Tensor]:
    """The same of a world over torch logits."""
    return {name: _tensor(array, name) for name, array in world_columns(world).items()}


def torch_logits(world: World) -> torch.Tensor:
    """The policy's logits, where they take gradients; InputError where they do not."""
    logits = world.policy.logits
    if not (is_torch(logits) and logits.requires_grad):
        raise InputError("the policy's logits must be a torch tensor with requires_grad=True")
    return logits


def _wanted(loss: Callable[..., Array], columns: Mapping[str, str]) -> dict[str, str]:
    aliases = {**{name: name for name in COLUMNS}, **columns}
    parameters = list(inspect.signature(loss).parameters)[3:]
    return {name: aliases[name] for name in parameters if name in aliases}


def _tensor(array: object, what: str) -> torch.Tensor:
    if not is_torch(array):
        raise InputError(f"{what} is a {type(array).__name__}, but a torch tensor is needed to take gradients")
    return array
