"""Unbiased ways to ∇KL(q‖p) of a world, in the policy's logits: mean and variance of a row, summed, never sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kullback.arrays import Float64, to_numpy
from kullback.lab.variance_ways import DRAWS, Sequences
from kullback.losses import TokenCritic
from kullback.oracle import World

FITS = 2
"""Critics that learn from batches of their own; their variances are averaged."""


@dataclass(frozen=True)
class GradientSpread:
    """What one way makes of a row.

    Attributes:
        mean: of the gradient, flattened.
        variance: trace of the covariance of the mean of so many rows as are drawn together, times their number.
    """

    mean: Float64
    variance: float


class Gradients:
    """The gradients of every sequence of a world: Σ_t [c_t ∇log q(x_t) + Σ_v q(v) a(v) ∇log q(v)].

    Args:
        world: on-policy.
    """

    def __init__(self, world: World) -> None:
        at = self.at = Sequences(world)
        policy, reference = (to_numpy(lm.log_distributions) for lm in (world.policy, world.reference))
        self.q: Float64 = np.exp(policy)
        self.gap: Float64 = policy - reference
        self.log_ratio: Float64 = np.where(at.mask, self.gap[at.places, at.tokens], 0.0)
        self.to_come: Float64 = np.cumsum(at.kl[:, ::-1], axis=1)[:, ::-1] - at.kl
        self.to_go: Float64 = np.cumsum(self.log_ratio[:, ::-1], axis=1)[:, ::-1]

    @cached_property
    def value(self) -> Float64:
        """V(prefix, v), the KL still to come after v, (prefixes, vocab)."""
        policy = self.at.world.policy
        kl = np.sum(self.q * self.gap, axis=1)
        place = {prefix: row for row, prefix in enumerate(policy.prefixes)}
        found = np.zeros_like(self.q)
        for prefix, row in reversed(place.items()):
            for token in range(policy.vocab):
                if (after := place.get((*prefix, token))) is not None:
                    found[row, token] = kl[after] + self.q[after] @ found[after]
        return found

    def centred(self, analytic: Float64 | None) -> Float64:
        """Σ_v q(v) a(v) ∇log q(v) at every prefix, (prefixes, vocab)."""
        if analytic is None:
            return np.zeros_like(self.q)
        return np.asarray(self.q * (analytic - np.sum(self.q * analytic, axis=1, keepdims=True)))

    def spread(self, credit: Float64, analytic: Float64 | None = None) -> GradientSpread:
        """Of independent rows.

        Args:
            credit: c_t, (sequences, horizon).
            analytic: a, (prefixes, vocab).
        """
        at = self.at
        rows = np.zeros((len(at.chance), *self.q.shape))
        row, time = np.nonzero(at.mask)
        place = at.places[row, time]
        rows[row, place] = credit[row, time, None] * at.deviations[row, time] + self.centred(analytic)[place]
        rows = rows.reshape(len(at.chance), -1)
        mean = at.chance @ rows
        return GradientSpread(mean, float(at.chance @ np.sum((rows - mean) ** 2, axis=1)))

    def leave_one_out(self, credit: Float64, analytic: Float64 | None = None) -> GradientSpread:
        """The same less the mean of the others at the same step, of DRAWS rows: a U-statistic of pairs.

        h(i, j) = ½(a_ij + a_ji), a_ij = Σ_t [(c_it − c_jt) ∇log q(x_it) + …]; the variance is
        2/(n(n − 1))·[2(n − 2)ζ₁ + ζ₂], ζ₁ that of E[h|i] and ζ₂ that of h (Hoeffding 1948). Scores have mean zero given
        the prefix, so that E[h|i] is ½(a_i with the mean of c_jt) and a constant.
        """
        at, own = self.at, self.centred(analytic)
        c = np.where(at.mask, credit, 0.0)
        level, square = at.chance @ c, at.chance @ c**2
        one = self.spread(c - level, analytic)
        alone = np.where(at.mask[..., None], own[at.places], 0.0)
        inner, size = np.sum(at.deviations * alone, axis=-1), np.sum(at.deviations**2, axis=-1)
        apart = (c**2 - 2.0 * c * level + square) * size + 2.0 * (c - level) * inner + np.sum(alone**2, axis=-1)
        # a_ij and a_ji meet at the prefixes that both go through.
        mass, common = np.zeros(len(own)), np.zeros_like(own)
        weight = np.where(at.mask, at.chance[:, None], 0.0)
        np.add.at(mass, at.places, weight)
        np.add.at(common, at.places, (weight * c)[..., None] * at.deviations)
        met = 2.0 * common**2 + 2.0 * mass[:, None] * common * own + (mass[:, None] * own) ** 2
        both = 0.5 * (float(at.chance @ apart.sum(axis=1)) + float(met.sum())) - float(one.mean @ one.mean)
        return GradientSpread(one.mean, 2.0 / (DRAWS - 1) * (0.5 * (DRAWS - 2) * one.variance + both))


def _plain(at: Gradients) -> GradientSpread:
    return at.spread(np.where(at.at.mask, at.log_ratio.sum(axis=1, keepdims=True), 0.0))


def _to_go(at: Gradients) -> GradientSpread:
    return at.spread(at.to_go)


def _to_go_of_others(at: Gradients) -> GradientSpread:
    return at.leave_one_out(at.to_go)


def _immediate(at: Gradients) -> GradientSpread:
    """vOPD's baseline of the score: the token KL, in expectation the token's own part of what follows."""
    return at.spread(at.to_go - at.at.kl)


def _optimal_baseline(at: Gradients) -> GradientSpread:
    """A number for each place, weighted by the squared scores so far."""
    square = np.sum(at.at.deviations**2, axis=-1)
    energy = np.where(at.at.mask, np.cumsum(square, axis=1), 0.0)
    chance = at.at.chance
    level = (chance @ (energy * at.to_go)) / np.maximum(chance @ energy, 1e-300)
    return at.spread(at.to_go - level)


def _rao_blackwell(at: Gradients) -> GradientSpread:
    return at.spread(at.to_come, at.gap)


def _rao_blackwell_of_others(at: Gradients) -> GradientSpread:
    return at.leave_one_out(at.to_come, at.gap)


def _less(at: Gradients, critic: Float64) -> GradientSpread:
    """Rao-Blackwell less a critic, (prefixes, vocab)."""
    taken = critic[at.at.places, at.at.tokens]
    return at.spread(at.to_come - taken, at.gap + critic)


def _prefix_value(at: Gradients) -> GradientSpread:
    return _less(at, np.repeat(np.sum(at.q * at.value, axis=1, keepdims=True), at.q.shape[1], axis=1))


def _token_value(at: Gradients) -> GradientSpread:
    return _less(at, at.value)


def learned(at: Gradients, sequences: int, seed: int) -> Float64:
    """What a `TokenCritic` says after so many sequences, in batches of DRAWS, (prefixes, vocab)."""
    policy, rng = at.at.world.policy, np.random.default_rng(seed)
    words, critic = np.eye(policy.vocab), TokenCritic()
    prefix = np.column_stack([[len(one) for one in policy.prefixes], at.q])
    for _ in range(sequences // DRAWS):
        drawn = rng.choice(len(at.at.chance), size=DRAWS, p=at.at.chance / at.at.chance.sum())
        tokens, mask, places = (x[drawn] for x in (at.at.tokens, at.at.mask, at.at.places))
        critic.update(prefix[places], words, tokens=tokens, token_kl=at.at.kl[drawn], mask=mask)
    everywhere = np.broadcast_to(prefix[:, None], (*at.q.shape, prefix.shape[1]))
    tokens = np.broadcast_to(np.arange(policy.vocab), at.q.shape)
    log_q = np.broadcast_to(np.log(at.q)[:, None], (*at.q.shape, policy.vocab))
    return to_numpy(critic.value(everywhere, words, logprobs=log_q, tokens=tokens).drawn)


def _after(sequences: int) -> Callable[[Gradients], GradientSpread]:
    def way(at: Gradients) -> GradientSpread:
        found = [_less(at, learned(at, sequences, seed)) for seed in range(FITS)]
        return GradientSpread(found[0].mean, float(np.mean([one.variance for one in found])))

    return way


GRADIENT_WAYS: Mapping[str, Callable[[Gradients], GradientSpread]] = {
    "score": _plain,
    "score to go": _to_go,
    f"… less the mean of {DRAWS - 1} others": _to_go_of_others,
    "… less the token KL (vOPD)": _immediate,
    "… less the optimal token baseline": _optimal_baseline,
    "Rao-Blackwell": _rao_blackwell,
    f"Rao-Blackwell less {DRAWS - 1} others": _rao_blackwell_of_others,
    "Rao-Blackwell less the value of the prefix": _prefix_value,
    "Rao-Blackwell less the token value": _token_value,
    "… that a critic learned from 64 sequences": _after(64),
    "… from 1,024": _after(1024),
}
"""By name; the token value is the KL still to come after every next token."""
