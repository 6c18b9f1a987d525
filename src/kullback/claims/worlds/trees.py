"""Trees of sequences drawn from a seed, in NumPy or, for gradients, in torch; what a loss follows in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Array, Float64, is_torch, namespace, to_numpy
from kullback.claims.worlds.pairs import Pair
from kullback.errors import InputError, MissingPackageError
from kullback.oracle import TreeLM, World, exact_gradient
from kullback.oracle.loss_gradients import gradient_of, world_columns
from kullback.oracle.tree import prefix_count
from kullback.targets import Target

if TYPE_CHECKING:
    import torch


def tree(seed: int, *, vocab: int = 3, horizon: int = 3, scale: float = 1.0, off_policy: bool = False) -> World:
    """A random pair of tree models in NumPy, with a third one that samples if `off_policy`."""
    return World(*(TreeLM(table, 0, horizon) for table in _tables(seed, vocab, horizon, scale, off_policy)))


def live_tree(seed: int, *, vocab: int = 3, horizon: int = 3, scale: float = 1.0, off_policy: bool = False) -> World:
    """The same in torch, with a policy that takes gradients."""
    tables = _tables(seed, vocab, horizon, scale, off_policy)
    return _live(tables, horizon)


def live_pair(pair: Pair) -> World:
    """A pair as a tree of one token, in torch."""
    return _live([np.log(pair.q)[None], np.log(pair.p)[None]], 1)


def _tables(seed: int, vocab: int, horizon: int, scale: float, off_policy: bool) -> list[Float64]:
    rng = np.random.default_rng(seed)
    prefixes = prefix_count(vocab, horizon)
    return [scale * rng.normal(size=(prefixes, vocab)) for _ in range(3 if off_policy else 2)]


def _live(tables: list[Float64], horizon: int) -> World:
    try:
        import torch
    except ImportError:
        raise MissingPackageError("torch", "torch") from None
    policy = torch.tensor(tables[0], dtype=torch.float64, requires_grad=True)
    others = [torch.tensor(table, dtype=torch.float64) for table in tables[1:]]
    return World(*(TreeLM(table, 0, horizon) for table in (policy, *others)))


def chances(world: World) -> Float64:
    """Probability of every sequence under what draws them, (sequences,)."""
    return to_numpy(world.probability)


def ratios(world: World) -> Float64:
    """ℓ of every sequence, (sequences,)."""
    return np.asarray(to_numpy(world.policy.sequence_logprobs) - to_numpy(world.reference.sequence_logprobs))


def token_ratios(world: World) -> Float64:
    """ℓ_t of every sequence, (sequences, horizon), 0 where masked."""
    return np.asarray(to_numpy(world.policy.logprobs) - to_numpy(world.reference.logprobs))


def tensor(array: Array) -> torch.Tensor:
    """An array of a live tree as the tensor that it is.

    Raises:
        InputError: the array is another library's.
    """
    if not is_torch(array):
        raise InputError(f"a {type(array).__name__} came, but a tensor is needed: take a live tree")
    return array


def followed(world: World, loss: Callable[..., Array]) -> Float64:
    """The mean over what is sampled of a loss's gradient, samples held fixed; a loss gives a number a row."""
    columns = world_columns(world)
    wanted = [name for name in list(inspect.signature(loss).parameters)[3:] if name in columns]
    arrays = [columns[name] for name in ("logprobs", "ref_logprobs", "mask")]
    rows = loss(*arrays, **{name: columns[name] for name in wanted})
    return gradient_of(namespace(rows).sum(world.probability * rows), world.policy.logits)


def off(got: Float64, world: World, target: Target) -> float:
    """‖got − ∇target‖/‖∇target‖."""
    return relative(got, exact_gradient(world, target))


def relative(got: Float64, wanted: Float64) -> float:
    """‖got − wanted‖/‖wanted‖."""
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
