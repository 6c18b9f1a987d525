"""Two fixed worlds that tables refer to, and exact variances in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kullback.arrays import Array, Float64, to_numpy
from kullback.estimation.block import Block
from kullback.estimation.sequences import Sequences
from kullback.estimators import Estimator
from kullback.oracle.loss_gradients import LossMoments, exact_gradient, loss_moments
from kullback.oracle.tree import TreeLM, prefix_count
from kullback.oracle.world import World
from kullback.targets import REVERSE_KL

VOCAB, HORIZON, EOS = 4, 3, 0
DISTANCES = {"near": 0.2, "apart": 1.0}
"""How far the policy's logits are from the reference's; the KLs are 0.015 and 0.39 nats a sequence."""


def reference_world(distance: str | float, *, torch: bool = False, staleness: float = 0.0) -> World:
    """The world "near" or "apart": 40 sequences of up to three tokens; with torch, logits that take gradients.

    The logits are sines of their index, so that they are the same everywhere.

    Args:
        distance: "near", "apart", or what the policy's logits are moved by.
        torch: make torch tensors.
        staleness: what the logits of the policy that draws the sequences are moved from the policy's; 0 is
            on-policy.

    Example:
        >>> import kullback as kb
        >>> round(float(kb.oracle.reference_world("near").exact(kb.REVERSE_KL)), 4)
        0.0154
    """
    moved = DISTANCES[distance] if isinstance(distance, str) else distance
    prefixes = prefix_count(VOCAB, HORIZON)
    index = np.arange(prefixes * VOCAB, dtype=np.float64).reshape(prefixes, VOCAB)
    reference = 1.5 * np.sin(1.7 * index + 0.3)
    policy = reference + moved * np.sin(2.9 * index + 1.1)
    behavior = policy + staleness * np.sin(4.3 * index + 0.7)
    if torch:
        import torch as library

        models = [_tree(library.tensor(logits)) for logits in (reference, behavior)]
        q = _tree(library.tensor(policy, requires_grad=True))
    else:
        models = [_tree(logits) for logits in (reference, behavior)]
        q = _tree(policy)
    return World(q, models[0], models[1] if staleness else None)


def relative_variance(world: World, estimator: Estimator, level: str) -> float:
    """Var/mean² of one sequence's estimate; of fitted controls with their best coefficients.

    Divided by n it is the squared relative error of a mean over n sequences.

    Args:
        world: NumPy models; the policy draws.
        estimator: a member of `kullback.ESTIMATORS`.
        level: "token" or "sequence".

    Example:
        >>> import kullback as kb
        >>> world = kb.oracle.reference_world("near")
        >>> [round(kb.oracle.relative_variance(world, estimator, "token"), 1) for estimator in (kb.K1, kb.K3)]
        [134.1, 0.4]
    """
    chance = to_numpy(world.probability)
    plain = np.asarray(to_numpy(world.summand(estimator, level)), dtype=np.float64)
    controls = _controls(world, estimator, level)
    mean = float(chance @ plain)
    residual = plain - mean
    if controls.shape[1]:
        root = np.sqrt(chance)[:, None]
        coefficients = np.linalg.lstsq(root * controls, root[:, 0] * residual, rcond=None)[0]
        residual = residual - controls @ coefficients
    return float(chance @ residual**2) / mean**2


def relative_gradient_variance(world: World, loss: Callable[..., Array], *, rows: int = 1) -> tuple[float, LossMoments]:
    """Trace of Cov[∇L] over ‖∇KL(q‖p)‖², with the moments themselves.

    Args:
        world: models over torch logits, the policy's with a gradient.
        loss: as for `loss_moments`.
        rows: sequences of a batch.

    Example:
        >>> import kullback as kb
        >>> world = kb.oracle.reference_world("near", torch=True)
        >>> variance, moments = kb.oracle.relative_gradient_variance(world, kb.SURROGATES["k2_loss"])
        >>> round(variance, 1)
        1.4
    """
    moments = loss_moments(world, loss, rows=rows)
    return moments.variance / float(np.sum(exact_gradient(world, REVERSE_KL) ** 2)), moments


def _tree(logits: Array) -> TreeLM:
    return TreeLM(logits, EOS, HORIZON)


def _controls(world: World, estimator: Estimator, level: str) -> Float64:
    block = Sequences.of(world.policy.logprobs, world.reference.logprobs, world.policy.mask, token_kl=world.token_kl)
    tokens = Block.of(block, level, None)
    columns = [tokens.sums(control.fn(tokens)) for control in estimator.controls]
    return np.stack(columns, axis=1) if columns else np.zeros((len(block), 0))
