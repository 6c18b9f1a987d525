"""A pair of models of 64 tokens, the texts that the policy writes, and what losses follow there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from kullback.arrays import Float64
from kullback.claims.record import Sampled
from kullback.oracle import MarkovGradient, MarkovLM

VOCAB, HORIZON, EOS = 64, 48, 0
SAMPLES = 20_000


@cache
def language() -> tuple[MarkovLM, MarkovLM]:
    """The realistic world: a policy and a reference of 64 tokens, at most 48 long, about 1.5 nats a sequence apart."""
    rng = np.random.default_rng(2020)
    first, table = 1.5 * rng.normal(size=VOCAB), 1.5 * rng.normal(size=(VOCAB, VOCAB))
    # No text is empty; 45% end by themselves, the others are cut: 36 tokens in the mean.
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
class Texts:
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

    @property
    def sums(self) -> Float64:
        """Σ_t ℓ_t of each sequence."""
        return self.total(self.log_ratio)

    def total(self, values: Float64) -> Float64:
        """Sums over the tokens of each sequence."""
        return np.asarray(np.sum(np.where(self.mask, values, 0.0), axis=1))


@cache
def texts() -> Texts:
    """20,000 sequences of the realistic policy."""
    policy, reference = language()
    tokens, mask = policy.sample(np.random.default_rng(7), SAMPLES)
    q, p = policy.score(tokens), reference.score(tokens)
    return Texts(tokens=tokens, q=q, p=p, token_kl=policy.token_kl(reference, tokens), mask=mask)


def sampled(values: Float64 | npt.NDArray[np.bool_]) -> Sampled:
    """The mean of independent values, and four standard errors of it."""
    return Sampled(float(np.mean(values)), 4 * float(np.std(values, ddof=1)) / math.sqrt(len(values)))


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
        reverse=_flat(policy.reverse_kl_gradient(reference)),
        forward=_flat(policy.forward_kl_gradient(reference)),
        statewise_reverse=(visits[:, None] * own).ravel(),
        statewise_forward=(visits[:, None] * (q - np.exp(log_p))).ravel(),
    )


def _flat(gradient: MarkovGradient) -> Float64:
    return np.concatenate([gradient.initial, gradient.logits.ravel()])
