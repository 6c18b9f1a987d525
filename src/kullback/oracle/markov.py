"""A language model whose next token depends on the last one only: exact at a real vocabulary and horizon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

from kullback.arrays import Array, Float64
from kullback.errors import InputError, ShapeError, shown
from kullback.estimators.divergences import k3
from kullback.oracle.tree import TreeLM

TokenFunction = Callable[[Float64, Float64], Float64]
"""Of the log-ratios of next tokens and the exact KLs at their prefixes, elementwise."""


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
        kinds: dict[str, TokenFunction] = {
            "k1": lambda log_ratio, token_kl: log_ratio,
            "k3": lambda log_ratio, token_kl: np.asarray(k3(log_ratio)),
            "rao_blackwell": lambda log_ratio, token_kl: token_kl,
        }
        if estimator not in kinds:
            raise InputError(f"estimator={shown(estimator)} came, but it is one of {', '.join(kinds)}")
        return self.moments(reference, kinds[estimator])[1]

    def moments(self, reference: MarkovLM, function: TokenFunction) -> tuple[float, float]:
        """Mean and variance of Σ_t f(ℓ_t, KL_t) over the tokens of one sequence.

        Args:
            reference: p.
            function: elementwise, of a token's log-ratio and the exact KL at its prefix, arrays of one shape.
        """
        self._fits(reference)
        q, mass = self.logprobs, np.exp(self.logprobs)
        values = _values(function, q, reference.logprobs)
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
        begin = _values(function, self.initial, reference.initial) + mean
        total_mean = float(first @ begin)
        return total_mean, float(first @ (begin - total_mean) ** 2 + first @ variance)

    def log_ratio_moments(self, reference: MarkovLM, order: int = 4) -> list[float]:
        """E[(Σ_t ℓ_t)^j] for j = 0 … order, of whole sequences."""
        self._fits(reference)
        mass = np.exp(self.logprobs)
        ratio = _values(_first, self.logprobs, reference.logprobs)
        powers = [mass * ratio**i for i in range(order + 1)]
        to_go = [np.ones(self.vocab), *(np.zeros(self.vocab) for _ in range(order))]
        for _ in range(self.horizon - 1):
            to_go = [to_go[0], *(self._alive(total) for total in _binomial(powers, to_go)[1:])]
        begin = _values(_first, self.initial, reference.initial)
        first = [np.exp(self.initial) * begin**i for i in range(order + 1)]
        return [float(total) for total in _binomial(first, to_go)]

    def pearson_chi2(self, reference: MarkovLM) -> float:
        """χ²(p‖q) = E_q[r²] − 1 of whole sequences, the variance of their ratio r; inf where it overflows."""
        self._fits(reference)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            step = np.where(self.logprobs > -np.inf, np.exp(2 * reference.logprobs - self.logprobs), 0.0)
            # One sequence's Π p²/q, kept as expm1 would: what is added to 1, so that near models lose no digit.
            excess = _excess(reference.logprobs, self.logprobs)
            to_go = np.zeros(self.vocab)
            for _ in range(self.horizon - 1):
                to_go = self._alive(excess + step @ to_go)
            first = np.where(self.initial > -np.inf, np.exp(2 * reference.initial - self.initial), 0.0)
            found = float(_excess(reference.initial, self.initial) + first @ to_go)
        return found if np.isfinite(found) else float("inf")

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
    """A gradient in the logits of the first token, (vocab,), and of the others, (vocab, vocab).

    Example:
        >>> import numpy as np
        >>> from kullback.oracle import MarkovLM
        >>> q, p = (MarkovLM(np.array([a, 0.0]), np.zeros((2, 2)), eos=0, horizon=3) for a in (1.0, 0.0))
        >>> q.reverse_kl_gradient(p).initial.round(4).tolist()
        [0.1966, -0.1966]
    """

    initial: Float64
    logits: Float64


@dataclass(frozen=True)
class _Steps:
    first: float
    rest: Float64


def _first(log_ratio: Float64, token_kl: Float64) -> Float64:
    return log_ratio


def _values(function: TokenFunction, q: Float64, p: Float64) -> Float64:
    """f(ℓ, KL) of every next token, 0 where its probability is 0."""
    mass = np.exp(q)
    with np.errstate(invalid="ignore"):
        log_ratio = _finite(q - p, mass)
    return _finite(function(log_ratio, np.broadcast_to(_row_kl(q, p)[..., None], q.shape)), mass)


def _binomial(powers: list[Float64], to_go: list[Float64]) -> list[Float64]:
    """E[(x + y)^j] from q·x^i by token and E[y^j] by token."""
    return [np.asarray(sum(comb(j, i) * (powers[i] @ to_go[j - i]) for i in range(j + 1))) for j in range(len(to_go))]


def _excess(p: Float64, q: Float64) -> Float64:
    """χ²(p‖q) of next tokens, Σ_v (p − q)²/q; inf where q excludes what p does not."""
    excess = np.where(q > -np.inf, np.exp(q) * np.expm1(p - q) ** 2, np.where(p > -np.inf, np.inf, 0.0))
    return np.asarray(excess.sum(axis=-1))


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _finite(values: Float64, mass: Float64) -> Float64:
    """values, 0 where their probability is 0."""
    return np.where(mass > 0, values, 0.0)


def _row_kl(q: Float64, p: Float64) -> Float64:
    mass = np.exp(q)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(mass * _finite(q - p, mass), axis=-1))
