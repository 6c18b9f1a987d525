"""A language model whose next token depends on the last one only: exact at a real vocabulary and horizon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kullback._namespace import Array, Float64
from kullback.divergences import k3
from kullback.errors import InputError, ShapeError
from kullback.oracle.tree import TreeLM


class MarkovLM:
    """A first-order model with an end-of-sequence token and a horizon, by dynamic programming.

    The methods take the reference and compare this model, the policy q, with it.

    Args:
        initial: logits of the first token, (vocab,).
        logits: logits of the next token given the last one, (vocab, vocab); the row of eos is never used.
        eos: the token that ends a sequence, which counts.
        horizon: the most tokens a sequence has.

    Raises:
        ShapeError: shapes that do not fit.
        InputError: an eos outside the vocabulary, or a horizon below 1.

    Example:
        >>> import numpy as np
        >>> from kullback.oracle import MarkovLM
        >>> rng = np.random.default_rng(0)
        >>> q, p = (MarkovLM(rng.normal(size=50), rng.normal(size=(50, 50)), eos=0, horizon=100) for _ in range(2))
        >>> round(q.reverse_kl(p), 2), round(q.forward_kl(p), 2)
        (36.05, 41.95)
    """

    def __init__(self, initial: Array, logits: Array, eos: int, horizon: int) -> None:
        first, rest = np.asarray(initial, dtype=np.float64), np.asarray(logits, dtype=np.float64)
        if first.ndim != 1 or rest.shape != (len(first), len(first)):
            raise ShapeError(
                f"initial has shape {first.shape} and logits {rest.shape}: (vocab,) and (vocab, vocab) are needed"
            )
        if not 0 <= eos < len(first) or horizon < 1:
            raise InputError(f"eos={eos} and horizon={horizon} came, but eos is a token and a horizon at least 1")
        self.eos, self.horizon, self.vocab = eos, horizon, len(first)
        self.initial, self.logprobs = _log_softmax(first), _log_softmax(rest)

    def reverse_kl(self, reference: MarkovLM) -> float:
        """KL(q‖p) of sequences, Σ_t Σ_s d_t(s) KL(q(·|s)‖p(·|s)) with d the policy's state distribution."""
        return self._total(reference, self._kl(reference))

    def forward_kl(self, reference: MarkovLM) -> float:
        """KL(p‖q) of sequences."""
        return reference.reverse_kl(self)

    def reverse_kl_gradient(self, reference: MarkovLM) -> MarkovGradient:
        """∇KL(q‖p) in this model's logits: Σ_t d_t(s) q(v|s) [ℓ(v|s) + U_{t+1}(v) − U_t(s)], U the KL still to come."""
        self._fits(reference)
        q, first = np.exp(self.logprobs), np.exp(self.initial)
        to_go = self._to_go(q, self._kl(reference).rest)
        states = self._states()
        ratio = self.logprobs - reference.logprobs
        # Σ_t d_t(s) U_{t+1}(v) as one matrix product over the steps.
        ahead = states.T @ to_go[1:]
        visits, here = states.sum(axis=0), np.sum(states * to_go[:-1], axis=0)
        rest = q * (visits[:, None] * _finite(ratio, q) + ahead - here[:, None])
        begin = _finite(self.initial - reference.initial, first) + to_go[0]
        return MarkovGradient(first * (begin - float(first @ begin)), rest)

    def forward_kl_gradient(self, reference: MarkovLM) -> MarkovGradient:
        """∇KL(p‖q) in this model's logits: Σ_t d_t(s) (q(v|s) − p(v|s)) with d the reference's states."""
        self._fits(reference)
        visits = reference._states().sum(axis=0)
        rest = visits[:, None] * (np.exp(self.logprobs) - np.exp(reference.logprobs))
        return MarkovGradient(np.exp(self.initial) - np.exp(reference.initial), rest)

    def variance(self, reference: MarkovLM, estimator: str) -> float:
        """Var of one sequence's Σ_t k1, Σ_t k3 or Σ_t KL_t, by the recursion Var_t(s) = Var(k + M_{t+1}) + E Var_{t+1}.

        Args:
            reference: p.
            estimator: "k1", "k3" or "rao_blackwell".
        """
        self._fits(reference)
        kinds: dict[str, Callable[[Float64, Float64], Float64]] = {
            "k1": lambda q, p: q - p,
            "k3": lambda q, p: np.asarray(k3(q - p)),
            "rao_blackwell": lambda q, p: np.broadcast_to(_row_kl(q, p)[..., None], q.shape),
        }
        if estimator not in kinds:
            raise InputError(f"estimator={estimator!r} came, but it is one of {', '.join(kinds)}")
        q, mass = self.logprobs, np.exp(self.logprobs)
        values = _finite(kinds[estimator](q, reference.logprobs), mass)
        weighted = mass * values
        mean_step, square_step = weighted.sum(axis=1), np.sum(weighted * values, axis=1)
        mean, variance = np.zeros(self.vocab), np.zeros(self.vocab)
        for _ in range(self.horizon - 1):
            # One pass over the table for the three expectations: memory, not arithmetic, is what it costs.
            expected, square, later = (mass @ np.stack([mean, mean**2, variance], axis=1)).T
            total = mean_step + expected
            square = square + square_step + 2 * (weighted @ mean)
            variance = self._alive(np.maximum(square - total**2, 0.0) + later)
            mean = self._alive(total)
        first = np.exp(self.initial)
        begin = _finite(kinds[estimator](self.initial, reference.initial), first) + mean
        return float(first @ (begin - first @ begin) ** 2 + first @ variance)

    def sample(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n sequences: tokens and mask, (n, horizon)."""
        tokens = np.zeros((n, self.horizon), dtype=np.int64)
        mask = np.zeros((n, self.horizon), dtype=bool)
        cumulative = np.cumsum(np.exp(self.logprobs), axis=1)
        rows = np.arange(n)
        for t in range(self.horizon):
            table = np.cumsum(np.exp(self.initial))[None] if t == 0 else cumulative[tokens[rows, t - 1]]
            draw = rng.uniform(size=len(rows)) * table[:, -1]
            tokens[rows, t] = np.minimum((table < draw[:, None]).sum(axis=1), self.vocab - 1)
            mask[rows, t] = True
            rows = rows[tokens[rows, t] != self.eos]
            if not len(rows):
                break
        return tokens, mask

    def score(self, tokens: np.ndarray) -> Float64:
        """Log-probs of tokens (n, time) under this model; what follows an end token is not to be counted."""
        later = self.logprobs[tokens[:, :-1], tokens[:, 1:]]
        return np.concatenate([self.initial[tokens[:, :1]], later], axis=1)

    def token_kl(self, reference: MarkovLM, tokens: np.ndarray) -> Float64:
        """Exact KL(q_t‖p_t) at the prefix of every token, (n, time)."""
        kl = self._kl(reference)
        return np.concatenate([np.full((len(tokens), 1), kl.first), kl.rest[tokens[:, :-1]]], axis=1)

    def tree(self) -> TreeLM:
        """The same model with every sequence written out, where it is small enough."""
        return TreeLM(
            lambda prefix: (self.logprobs[prefix[-1]] if prefix else self.initial).tolist(), self.eos, self.horizon
        )

    def _total(self, reference: MarkovLM, step: _Steps) -> float:
        self._fits(reference)
        return float(step.first + np.sum(self._states() @ step.rest))

    def _kl(self, reference: MarkovLM) -> _Steps:
        return _Steps(float(_row_kl(self.initial, reference.initial)), _row_kl(self.logprobs, reference.logprobs))

    def _states(self) -> Float64:
        """Probability that token t is s and the sequence goes on, (horizon − 1, vocab)."""
        q = np.exp(self.logprobs)
        states = np.zeros((self.horizon - 1, self.vocab))
        state = self._alive(np.exp(self.initial))
        for t in range(self.horizon - 1):
            states[t] = state
            state = self._alive(state @ q)
        return states

    def _to_go(self, q: Float64, step: Float64) -> Float64:
        """Expected KL of what follows token t = s, (horizon, vocab); 0 after the last token and after eos."""
        to_go = np.zeros((self.horizon, self.vocab))
        for t in range(self.horizon - 2, -1, -1):
            to_go[t] = self._alive(step + q @ to_go[t + 1])
        return to_go

    def _alive(self, by_token: Float64) -> Float64:
        by_token = by_token.copy()
        by_token[self.eos] = 0.0
        return by_token

    def _fits(self, reference: MarkovLM) -> None:
        mine, theirs = ((lm.vocab, lm.eos, lm.horizon) for lm in (self, reference))
        if mine != theirs:
            raise InputError(f"models with (vocab, eos, horizon) {mine} and {theirs} came: they must share them")


@dataclass(frozen=True)
class MarkovGradient:
    """A gradient in the logits of the first token, (vocab,), and of the others, (vocab, vocab)."""

    initial: Float64
    logits: Float64


@dataclass(frozen=True)
class _Steps:
    first: float
    rest: Float64


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _finite(values: Float64, mass: Float64) -> Float64:
    """values, 0 where their probability is 0."""
    return np.where(mass > 0, values, 0.0)


def _row_kl(q: Float64, p: Float64) -> Any:
    mass = np.exp(q)
    with np.errstate(invalid="ignore"):
        return np.sum(mass * _finite(q - p, mass), axis=-1)
