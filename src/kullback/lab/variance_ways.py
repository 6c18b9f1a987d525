"""Ways to draw and to weigh the sequences of a world, with their mean, variance and tokens: summed, never sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.estimators import K1, K3
from kullback.oracle import World

DRAWS = 16
"""Sequences that are drawn together, where draws depend on one another."""

BRANCHES = 4
"""Sequences that go on from one first token."""


@dataclass(frozen=True)
class Spread:
    """What one way makes of a sequence.

    Attributes:
        mean: of the estimate: the KL, or the way is biased.
        variance: of the estimate times the sequences drawn.
        tokens: drawn a sequence, in the mean.
    """

    mean: float
    variance: float
    tokens: float


class Sequences:
    """All sequences of a world, in the order of their tokens.

    Args:
        world: on-policy.
    """

    def __init__(self, world: World) -> None:
        policy = world.policy
        order = np.lexsort(policy.tokens.T[::-1])
        self.world, self.order = world, order
        self.tokens, self.mask, self.places = (x[order] for x in (policy.tokens, policy.mask, policy.places))
        self.chance: Float64 = to_numpy(world.probability)[order]
        self.kl: Float64 = to_numpy(world.token_kl)[order]
        self.total = self.kl.sum(axis=1)
        self.length = self.mask.sum(axis=1).astype(np.float64)

    @cached_property
    def next(self) -> Float64:
        """q of the next tokens at every token's prefix, (sequences, horizon, vocab)."""
        return np.asarray(np.exp(to_numpy(self.world.policy.log_distributions))[self.places])

    @cached_property
    def deviations(self) -> Float64:
        """Each token less its mean, 0 where masked, (sequences, horizon, vocab)."""
        drawn = np.eye(self.world.policy.vocab)[self.tokens]
        return np.where(self.mask[..., None], drawn - self.next, 0.0)

    def mean(self, values: Float64) -> float:
        """E of a number of each sequence."""
        return float(self.chance @ values)

    def spread(self, values: Float64) -> Spread:
        """Of independent draws."""
        mean = self.mean(values)
        return Spread(mean, self.mean((values - mean) ** 2), self.mean(self.length))

    def controlled(self, controls: Float64) -> Spread:
        """Rao-Blackwell less the best combination of numbers with mean zero, (sequences, controls)."""
        return self.spread(self.total - controls @ best(self.chance, self.total, controls))


def best(chance: Float64, values: Float64, controls: Float64) -> Float64:
    """The coefficients that leave the least variance; of the smallest size where controls depend on one another."""
    root = np.sqrt(chance)
    target = root * (values - chance @ values)
    return np.asarray(np.linalg.lstsq(root[:, None] * controls, target, rcond=1e-12)[0])


def _k1(at: Sequences) -> Spread:
    return at.spread(to_numpy(at.world.summand(K1, "token"))[at.order])


def _k3(at: Sequences) -> Spread:
    return at.spread(to_numpy(at.world.summand(K3, "token"))[at.order])


def _rao_blackwell(at: Sequences) -> Spread:
    return at.spread(at.total)


def _end_token(at: Sequences) -> Spread:
    return at.controlled(at.deviations[..., at.world.policy.eos].sum(axis=1)[:, None])


def _next_token(at: Sequences) -> Spread:
    return at.controlled(at.deviations.sum(axis=1))


def _bilinear(at: Sequences) -> Spread:
    ratio = to_numpy(at.world.policy.logprobs - at.world.reference.logprobs)[at.order] - at.kl
    token = np.concatenate([np.where(at.mask, ratio, 0.0)[..., None], at.deviations], axis=-1)
    return at.controlled(np.einsum("nti,ntj->nij", _prefix(at), token).reshape(len(at.chance), -1))


def _prefix(at: Sequences) -> Float64:
    """What z is here: 1, the position and q of the next tokens, (sequences, horizon, numbers)."""
    position = np.broadcast_to(np.arange(at.tokens.shape[1], dtype=np.float64), at.tokens.shape)[..., None]
    return np.concatenate([np.ones_like(position), position, at.next], axis=-1)


def _kl_to_come(at: Sequences) -> Spread:
    """With V itself: Σ_t E[F_t | x_≤t] − E[F_t | x_<t], from the sums over each prefix's sequences."""
    lengths = range(at.tokens.shape[1] + 1)
    means = np.array([_given(at, _prefixes(at, length)) for length in lengths])
    return at.spread(at.total - np.diff(means, axis=0).sum(axis=0))


def _prefixes(at: Sequences, length: int) -> np.ndarray:
    """Which sequences have the same first tokens, as a number of each, (sequences,)."""
    first = np.where(at.mask, at.tokens, -1)[:, :length]
    return np.asarray(np.unique(first, axis=0, return_inverse=True)[1]).reshape(-1)


def _given(at: Sequences, group: np.ndarray) -> Float64:
    """E[Σ_t KL_t | group] of every sequence."""
    mass = np.bincount(group, at.chance)
    sums = np.bincount(group, at.chance * at.total)
    return np.asarray(np.divide(sums, mass, out=np.zeros_like(sums), where=mass > 0)[group])


def _first_tokens(at: Sequences, *, neyman: bool) -> Spread:
    group = np.where(at.mask[:, 0], at.tokens[:, 0], 0)
    weight = np.bincount(group, at.chance)
    off = (at.total - _given(at, group)) ** 2
    within = np.sqrt(np.bincount(group, at.chance * off) / np.maximum(weight, 1e-300))
    share = weight * within if neyman else weight
    length = np.bincount(group, at.chance * at.length) / np.maximum(weight, 1e-300)
    if not share.sum():
        return Spread(at.mean(at.total), 0.0, at.mean(at.length))
    share = share / share.sum()
    variance = float(np.sum(np.divide((weight * within) ** 2, share, out=np.zeros_like(share), where=share > 0)))
    return Spread(at.mean(at.total), variance, float(share @ length))


def _proportional(at: Sequences) -> Spread:
    return _first_tokens(at, neyman=False)


def _neyman(at: Sequences) -> Spread:
    return _first_tokens(at, neyman=True)


def _branching(at: Sequences) -> Spread:
    """A first token, and from it several sequences, whose mean is taken: of that whole family."""
    given = _given(at, np.where(at.mask[:, 0], at.tokens[:, 0], 0))
    mean = at.mean(at.total)
    between, within = at.mean((given - mean) ** 2), at.mean((at.total - given) ** 2)
    return Spread(mean, between + within / BRANCHES, 1.0 + BRANCHES * (at.mean(at.length) - 1.0))


def _survival(at: Sequences, *, controlled: bool = False) -> Spread:
    """The path drawn given that it does not end, Σ_t S_t KL_t with S_t the probability to have come so far."""
    eos, horizon = at.world.policy.eos, at.tokens.shape[1]
    paths = at.mask.all(axis=1) & (at.tokens[:, : horizon - 1] != eos).all(axis=1)
    on = 1.0 - at.next[paths][..., eos]
    alive = np.cumprod(np.concatenate([np.ones((len(on), 1)), on[:, :-1]], axis=1), axis=1)
    # Σ_t S_t KL_t does not look at the last token, whose probabilities sum to 1.
    chance = at.chance[paths] / np.maximum(alive[:, -1], 1e-300)
    values = (alive * at.kl[paths]).sum(axis=1)
    if controlled:
        going = np.delete(at.next[paths][:, :-1], eos, axis=-1)
        drawn = np.delete(np.eye(at.world.policy.vocab)[at.tokens[paths][:, :-1]], eos, axis=-1)
        token = (drawn - going / np.maximum(on[:, :-1, None], 1e-300)) * alive[:, 1:, None]
        controls = np.einsum("nti,ntj->nij", _prefix(at)[paths][:, :-1], token).reshape(len(values), -1)
        values = values - controls @ best(chance, values, controls)
    mean = float(chance @ values)
    return Spread(mean, float(chance @ (values - mean) ** 2), float(horizon))


def _survival_controlled(at: Sequences) -> Spread:
    return _survival(at, controlled=True)


def _lattice(at: Sequences) -> Spread:
    """DRAWS sequences at u + i/DRAWS of the cumulated probability, one u for all: arithmetic sampling."""
    ends = np.cumsum(at.chance)[:-1]
    cuts = np.unique(np.concatenate([[0.0, 1.0 / DRAWS], ends % (1.0 / DRAWS)]))
    middle, width = (cuts[1:] + cuts[:-1]) / 2.0, np.diff(cuts) * DRAWS
    places = np.searchsorted(ends, middle[:, None] + np.arange(DRAWS) / DRAWS)
    values = at.total[places].mean(axis=1)
    mean = float(width @ values)
    return Spread(mean, DRAWS * float(width @ (values - mean) ** 2), at.mean(at.length))


def _antithetic(at: Sequences) -> Spread:
    """Pairs at u and 1 − u of the cumulated probability."""
    ends = np.cumsum(at.chance)[:-1]
    cuts = np.unique(np.clip(np.concatenate([[0.0, 1.0], ends, 1.0 - ends]), 0.0, 1.0))
    middle, width = (cuts[1:] + cuts[:-1]) / 2.0, np.diff(cuts)
    values = (at.total[np.searchsorted(ends, middle)] + at.total[np.searchsorted(ends, 1.0 - middle)]) / 2.0
    mean = float(width @ values)
    return Spread(mean, 2.0 * float(width @ (values - mean) ** 2), at.mean(at.length))


def _horvitz_thompson(at: Sequences) -> Spread:
    """Each distinct one of DRAWS sequences once, over its probability to be among them."""
    p, values = at.chance, at.chance * at.total
    none = np.exp(DRAWS * np.log1p(-np.minimum(p, 1.0 - 1e-15)))
    inside = -np.expm1(DRAWS * np.log1p(-np.minimum(p, 1.0 - 1e-15)))
    neither = np.maximum(1.0 - p[:, None] - p[None, :], 0.0) ** DRAWS
    both = 1.0 - none[:, None] - none[None, :] + neither
    np.fill_diagonal(both, inside)
    scaled = np.divide(values, inside, out=np.zeros_like(values), where=inside > 0)
    variance = float(scaled @ (both - inside[:, None] * inside[None, :]) @ scaled)
    return Spread(float(inside @ scaled), DRAWS * variance, at.mean(at.length))


WAYS: Mapping[str, Callable[[Sequences], Spread]] = {
    "k1": _k1,
    "k3": _k3,
    "Rao-Blackwell": _rao_blackwell,
    "… less the end token": _end_token,
    "… less a table of next tokens": _next_token,
    "… less z′W e(v)": _bilinear,
    "… less the KL to come": _kl_to_come,
    "strata of first tokens": _proportional,
    "strata, Neyman's sizes": _neyman,
    f"{BRANCHES} from a first token": _branching,
    "termination integrated out": _survival,
    "… less z′W e(v), of paths": _survival_controlled,
    f"a lattice of {DRAWS}": _lattice,
    "antithetic pairs": _antithetic,
    f"distinct ones of {DRAWS}": _horvitz_thompson,
}
"""By name; those after Rao-Blackwell average Σ_t KL_t too."""
