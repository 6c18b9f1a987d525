"""The worlds that claims are decided in: drawn from a seed, small enough for a hand, or of a realistic size."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from kullback.arrays import Array, Float64
from kullback.errors import MissingPackageError
from kullback.oracle import MarkovGradient, MarkovLM, TreeLM, World, exact_gradient
from kullback.oracle.loss_gradients import gradient_of, world_columns
from kullback.oracle.tree import prefix_count
from kullback.targets import Target


@dataclass(frozen=True)
class Pair:
    """Two distributions over a few outcomes, (outcomes,): the policy q and the reference p."""

    q: Float64
    p: Float64

    @property
    def log_ratio(self) -> Float64:
        """ℓ = log q − log p."""
        return np.log(self.q) - np.log(self.p)

    @property
    def r(self) -> Float64:
        """p/q."""
        return self.p / self.q

    @property
    def kl(self) -> float:
        """KL(q‖p)."""
        return self.mean(self.log_ratio)

    @property
    def forward_kl(self) -> float:
        """KL(p‖q)."""
        return self.swapped.kl

    @property
    def jeffreys(self) -> float:
        """KL(q‖p) + KL(p‖q)."""
        return self.kl + self.forward_kl

    @property
    def chi2(self) -> float:
        """χ²(p‖q) = E_q[(r − 1)²]."""
        return self.mean((self.r - 1) ** 2)

    @property
    def swapped(self) -> Pair:
        """The same with q and p exchanged."""
        return Pair(self.p, self.q)

    def mean(self, values: Float64) -> float:
        """E_q[values], where outcomes that q excludes do not count."""
        return float(np.sum(np.where(self.q > 0, self.q * values, 0.0)))

    def variance(self, values: Float64) -> float:
        """Var_q[values]."""
        return self.mean((values - self.mean(values)) ** 2)

    def gradient(self, coefficients: Float64) -> Float64:
        """E_q[c·∇log q] in the logits of q."""
        return np.asarray(self.q * (coefficients - self.mean(coefficients)))

    def spread(self, coefficients: Float64) -> float:
        """Trace of Cov_q[c·∇log q] in the logits of q."""
        mean = self.gradient(coefficients)
        return self.mean(coefficients**2 * self.score_square) - float(mean @ mean)

    @property
    def score_square(self) -> Float64:
        """‖∇log q(x)‖² in the logits of q."""
        return np.asarray(np.sum((np.eye(len(self.q)) - self.q) ** 2, axis=1))


BY_HAND = Pair(np.array([0.8, 0.2]), np.array([0.5, 0.5]))
"""KL 0.192745 and 0.223144."""

EVEN = Pair(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
"""r = ½ and 3/2; J = ¼ log 3, χ² = ¼."""

CROSSED = Pair(np.array([0.9, 0.1]), np.array([0.1, 0.9]))
"""ℓ = ±log 9."""


def pair(seed: int, outcomes: int = 5, scale: float = 1.0) -> Pair:
    """Two random distributions."""
    rng = np.random.default_rng(seed)
    return Pair(*(softmax(scale * rng.normal(size=outcomes)) for _ in range(2)))


def close_pair(seed: int, distance: float, outcomes: int = 5) -> Pair:
    """A random reference and a policy whose logits are `distance` away in a random direction."""
    rng = np.random.default_rng(seed)
    logits, direction = rng.normal(size=(2, outcomes))
    return Pair(softmax(logits + distance * direction), softmax(logits))


def softmax(logits: Float64) -> Float64:
    """exp(logits) over its sum along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


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


def followed(world: World, loss: Callable[..., Array]) -> Float64:
    """The mean over what is sampled of a loss's gradient, samples held fixed; a loss gives a number a row."""
    columns = world_columns(world)
    wanted = [name for name in list(inspect.signature(loss).parameters)[3:] if name in columns]
    arrays = [columns[name] for name in ("logprobs", "ref_logprobs", "mask")]
    rows = loss(*arrays, **{name: columns[name] for name in wanted})
    return gradient_of((world.probability * rows).sum(), world.policy.logits)


def off(got: Float64, world: World, target: Target) -> float:
    """‖got − ∇target‖/‖∇target‖."""
    return relative(got, exact_gradient(world, target))


def relative(got: Float64, wanted: Float64) -> float:
    """‖got − wanted‖/‖wanted‖."""
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@dataclass(frozen=True)
class Gaussian:
    """q = N(0, 1) against p = N(shift, scale²), in closed form; ℓ = ax² + bx + c."""

    shift: float
    scale: float = 1.0

    @property
    def kl(self) -> float:
        """KL(q‖p)."""
        return math.log(self.scale) + (1 + self.shift**2) / (2 * self.scale**2) - 0.5

    @property
    def forward_kl(self) -> float:
        """KL(p‖q)."""
        return -math.log(self.scale) + (self.scale**2 + self.shift**2) / 2 - 0.5

    @property
    def var_k1(self) -> float:
        """Var[ℓ] = 2a² + b²."""
        return (1 / self.scale**2 - 1) ** 2 / 2 + self.shift**2 / self.scale**4

    @property
    def chi2(self) -> float:
        """χ²(p‖q) = Var[r], infinite from σ² = 2 on."""
        room = 2 - self.scale**2
        if room <= 0:
            return math.inf
        return math.exp(self.shift**2 / room) / (self.scale * math.sqrt(room)) - 1

    @property
    def var_k3(self) -> float:
        """Var[k1] + χ² − 2J."""
        return self.var_k1 + self.chi2 - 2 * (self.kl + self.forward_kl)

    @property
    def mean_k2(self) -> float:
        """½E[ℓ²]."""
        return (self.var_k1 + self.kl**2) / 2

    @property
    def var_k2(self) -> float:
        """Var[½ℓ²] where the scales are equal and ℓ ~ N(μ²/2, μ²)."""
        return self.shift**4 / 2 + self.shift**6 / 4

    @property
    def best_coefficient(self) -> float:
        """λ* = J/χ²."""
        return (self.kl + self.forward_kl) / self.chi2

    @property
    def least_variance(self) -> float:
        """Var[k1] − J²/χ²."""
        return self.var_k1 - (self.kl + self.forward_kl) ** 2 / self.chi2


VOCAB, HORIZON, EOS = 64, 48, 0
SAMPLES = 20_000


@cache
def language() -> tuple[MarkovLM, MarkovLM]:
    """The realistic world: a policy and a reference of 64 tokens, at most 48 long, about 1.5 nats a sequence apart."""
    rng = np.random.default_rng(2020)
    first, table = 1.5 * rng.normal(size=VOCAB), 1.5 * rng.normal(size=(VOCAB, VOCAB))
    first[EOS] = -9.0
    table[:, EOS] = 0.8 + 0.3 * rng.normal(size=VOCAB)
    step_first, step = 0.3 * rng.normal(size=VOCAB), 0.3 * rng.normal(size=(VOCAB, VOCAB))
    policy = MarkovLM(first + step_first, table + step, EOS, HORIZON)
    return policy, MarkovLM(first, table, EOS, HORIZON)


@cache
def updated() -> MarkovLM:
    """The realistic policy after a few steps of training: its logits moved by 0.1."""
    policy, _ = language()
    rng = np.random.default_rng(5)
    first, table = rng.normal(size=VOCAB), rng.normal(size=(VOCAB, VOCAB))
    return MarkovLM(policy.initial + 0.1 * first, policy.logprobs + 0.1 * table, EOS, HORIZON)


@dataclass(frozen=True)
class Rollouts:
    """Sequences of the realistic policy, (sequences, time): tokens, log-probs under both models, token KLs, mask."""

    tokens: np.ndarray
    q: Float64
    p: Float64
    token_kl: Float64
    mask: np.ndarray

    @property
    def log_ratio(self) -> Float64:
        """ℓ_t, 0 where masked."""
        return np.where(self.mask, self.q - self.p, 0.0)

    def total(self, values: Float64) -> Float64:
        """Sums over the tokens of each sequence."""
        return np.asarray(np.sum(np.where(self.mask, values, 0.0), axis=1))


@cache
def rollouts() -> Rollouts:
    """20,000 sequences of the realistic policy."""
    policy, reference = language()
    tokens, mask = policy.sample(np.random.default_rng(7), SAMPLES)
    q, p = policy.score(tokens), reference.score(tokens)
    return Rollouts(tokens, q, p, policy.token_kl(reference, tokens), mask)


def sampled(values: np.ndarray) -> dict[str, float]:
    """`computed` and `error` of a finding: a mean, and four standard errors of it."""
    return {
        "computed": float(np.mean(values)),
        "error": 4 * float(np.std(values, ddof=1)) / math.sqrt(len(values)),
    }


@dataclass(frozen=True)
class Descents:
    """What losses follow in the realistic world, as gradients in its logits, flattened."""

    reverse: Float64
    forward: Float64
    statewise_reverse: Float64
    statewise_forward: Float64


@cache
def descents() -> Descents:
    """∇KL(q‖p) and ∇KL(p‖q) of sequences, and what token-level k2 and k3 losses follow."""
    policy, reference = language()
    visits = np.concatenate([[1.0], policy._states().sum(axis=0)])
    log_q, log_p = (np.concatenate([lm.initial[None], lm.logprobs]) for lm in (policy, reference))
    q, ratio = np.exp(log_q), log_q - log_p
    own = q * (ratio - np.sum(q * ratio, axis=1, keepdims=True))
    return Descents(
        _flat(policy.reverse_kl_gradient(reference)),
        _flat(policy.forward_kl_gradient(reference)),
        (visits[:, None] * own).ravel(),
        (visits[:, None] * (q - np.exp(log_p))).ravel(),
    )


def _flat(gradient: MarkovGradient) -> Float64:
    return np.concatenate([gradient.initial, gradient.logits.ravel()])


@dataclass(frozen=True)
class Tokens:
    """A language model that draws every token from the same distribution until the first, the end, comes."""

    q: Float64
    p: Float64

    @property
    def token(self) -> Pair:
        """The distributions of one token."""
        return Pair(self.q, self.p)

    @property
    def kl(self) -> float:
        """KL(q‖p) of sequences: KL a token times the mean length 1/q(end)."""
        return self.token.kl / float(self.q[0])

    def variance(self, values: Float64) -> float:
        """Var Σ_t k_t of k by token, from the end token's part, the others' and their number, which is geometric."""
        end = float(self.q[0])
        rest = Pair(self.q[1:] / (1 - end), self.p[1:])
        others = (1 - end) / end * rest.variance(values[1:])
        return others + (1 - end) / end**2 * rest.mean(values[1:]) ** 2

    @property
    def growth(self) -> float:
        """Σ p²/q over the tokens that do not end: E[r²] of sequences is infinite from 1 on."""
        return float(np.sum(self.p[1:] ** 2 / self.q[1:]))


ENDLESS = Tokens(np.array([0.1, 0.45, 0.45]), np.array([0.05, 0.6, 0.35]))
"""KL 0.529493 nats a sequence of 10 tokens; the ratio of sequences has no variance."""


@dataclass(frozen=True)
class TwoSteps:
    """Two binary tokens: (q(1), p(1)) at the first, after a 0 and after a 1. All four sequences, in closed form."""

    first: tuple[float, float]
    after_zero: tuple[float, float]
    after_one: tuple[float, float]

    def _column(self, model: int) -> Float64:
        """Log-probs of both tokens of 00, 01, 10, 11 under the policy (0) or the reference (1)."""
        places = [(self.first, nxt) for nxt in (self.after_zero, self.after_one) for _ in range(2)]
        tokens = [(first, second) for first in (0, 1) for second in (0, 1)]
        chosen = [
            [place[model] if token else 1 - place[model] for place, token in zip(nodes, drawn, strict=True)]
            for nodes, drawn in zip(places, tokens, strict=True)
        ]
        column: Float64 = np.log(np.array(chosen))
        return column

    @property
    def chance(self) -> Float64:
        """Probability of each sequence under q."""
        chance: Float64 = np.exp(self._column(0).sum(axis=1))
        return chance

    @property
    def log_ratio(self) -> Float64:
        """ℓ of both tokens, (4, 2)."""
        ratio: Float64 = self._column(0) - self._column(1)
        return ratio

    @property
    def token_kl(self) -> Float64:
        """Exact token KLs at both prefixes, (4, 2)."""
        first, zero, one = (
            Pair(np.array([1 - q, q]), np.array([1 - p, p])).kl
            for q, p in (self.first, self.after_zero, self.after_one)
        )
        return np.array([[first, zero], [first, zero], [first, one], [first, one]])

    def mean(self, values: Float64) -> float:
        """Expectation under q."""
        return float(self.chance @ values)

    def covariance(self, a: Float64, b: Float64) -> float:
        """Covariance under q."""
        return self.mean((a - self.mean(a)) * (b - self.mean(b)))

    def spread(self, gradients: Float64) -> float:
        """Trace of the covariance of gradients, (4, 3)."""
        return sum(self.covariance(column, column) for column in gradients.T)

    @property
    def scores(self) -> Float64:
        """∇log q of both tokens in the logit of a 1 at the three places, (4, 2, 3)."""
        first, zero, one = self.first[0], self.after_zero[0], self.after_one[0]
        return np.array(
            [
                [[-first, 0, 0], [0, -zero, 0]],
                [[-first, 0, 0], [0, 1 - zero, 0]],
                [[1 - first, 0, 0], [0, 0, -one]],
                [[1 - first, 0, 0], [0, 0, 1 - one]],
            ]
        )

    @property
    def token_kl_gradients(self) -> Float64:
        """∇Σ_t KL_t with the prefixes held fixed, (4, 3)."""
        first, zero, one = (
            q * (1 - q) * (math.log(q / (1 - q)) - math.log(p / (1 - p)))
            for q, p in (self.first, self.after_zero, self.after_one)
        )
        return np.array([[first, zero, 0], [first, zero, 0], [first, 0, one], [first, 0, one]])


UNLUCKY = TwoSteps((0.5, 0.75), (0.5, 0.5), (0.99, 0.01))
"""Exact token KLs are noisier than k1 here: 5.070 against 3.316."""
