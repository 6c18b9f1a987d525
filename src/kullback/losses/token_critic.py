"""A critic of the KL to come after every next token, fitted as training goes on, by batches that are over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kullback.arrays import A, Array, Float64, Numbers, at_least_float32, namespace, stop_gradient, to_numpy
from kullback.arrays.masks import check_mask
from kullback.errors import InputError, ShapeError, shown
from kullback.losses.rows import beside, is_finite
from kullback.losses.token_value import TokenValue

RIDGES = (0.1, 1.0, 10.0, 100.0)
"""What W is held to 0 by, in tokens, when every column has size 1. The one that foretold the batches so far best is
used: one of them alone loses 1.4 times in random worlds after 32 sequences, or 20 times where one token in 140 leads to
all of the KL, after 1,024."""

CHUNK = 1 << 14
"""Tokens whose products of prefix and word are held at a time."""

SCHEMA = 1


class TokenCritic:
    """g(x_<t, v) = z′W e(v): what KL is still to come after every next token, as a baseline of `kl_loss`.

    z are numbers of the prefix (its position, some directions of the last hidden state), e(v) of a word (some
    directions of the LM head's rows, or one number a word where there are few); a 1 is put before both. `value` gives
    the baseline of a batch by the batches before, and `update`, called when the batch's last gradient is taken, learns
    from it. So g never looks at the rows that it is used for, and the gradient stays exactly unbiased.

    W minimises Σ (F_t − g)² + ridge over the batches so far, F_t = Σ_{u>t} KL_u, older batches counting less. Best with
    objective=REVERSE_KL and `token_kl`; rows of an older policy serve as well, nearly.

    Args:
        memory: what a batch counts when the next has come: 0.99 remembers some hundred.

    Attributes:
        batches: how many were learned from.

    Raises:
        InputError: a memory that is not above 0 and at most 1.

    Reference: docs/variance.md, “Gradients”; Sutton & Barto 2018, chapter 9, for linear critics.

    Example:
        >>> import torch, kullback as kb
        >>> critic, words = kb.TokenCritic(), torch.eye(3)
        >>> logits = torch.zeros(2, 2, 3, requires_grad=True)
        >>> q, tokens = torch.log_softmax(logits, -1), torch.tensor([[0, 1], [2, 1]])
        >>> place, kl = torch.tensor([[[0.0], [1.0]]] * 2), torch.tensor([[0.1, 0.5], [0.1, 0.0]])
        >>> drawn, p = q.gather(-1, tokens[..., None])[..., 0], torch.full((2, 2), -1.0)
        >>> value = critic.value(place, words, logprobs=q, tokens=tokens)
        >>> loss = kb.kl_loss(drawn, p, objective=kb.REVERSE_KL, token_kl=kl, baseline=value)
        >>> loss.backward()
        >>> critic.update(place, words, tokens=tokens, token_kl=kl).batches
        1
    """

    def __init__(self, *, memory: float = 0.99) -> None:
        if not 0.0 < memory <= 1.0:
            raise InputError(f"memory={shown(memory)} came, but it is above 0 and at most 1")
        self.memory, self.batches = float(memory), 0
        self._sums: dict[str, Float64] = {}
        self._weights = np.zeros((0, len(RIDGES)))
        self._widths = (0, 0)

    @property
    def explained(self) -> float:
        """Of the variance of the KL to come, the share that was foretold before the batches were learned from.

        nan before the second batch; below 0 where the mean would have foretold it better. To be logged: what it is
        says how much of the gradient's noise the critic takes off.
        """
        if self.batches < 2:
            return float("nan")
        tokens, total, square = self._sums["totals"]
        spread = square - total**2 / tokens
        return float(1.0 - self._sums["loss"].min() / spread) if spread > 0 else 0.0

    def value(self, prefix: Numbers, words: Numbers, *, logprobs: A, tokens: Numbers) -> TokenValue[A]:
        """The baseline of a batch, by the batches that were learned from; 0 before the first.

        Not inside a function that jax.jit or torch.compile traces: what is learned later would not reach it.

        Args:
            prefix: numbers of every prefix, (batch, time, numbers); no gradient flows.
            words: numbers of every word, (vocab, numbers), the same for all batches; no gradient flows.
            logprobs: log q of the whole vocabulary, (batch, time, vocab), torch or JAX, differentiable.
            tokens: the drawn ones, (batch, time); where masked, any of the vocabulary.

        Raises:
            ShapeError: shapes that do not go together, or other numbers than before.
        """
        live = at_least_float32(logprobs, "logprobs")
        xp = namespace(live)
        z, e, place = (stop_gradient(beside(x, live)) for x in (prefix, words, tokens))
        self._check(z, e, tuple(live.shape), tuple(place.shape))
        w = xp.astype(beside(self._chosen(), live), live.dtype)
        # A masked prefix may hold anything, which reaches neither value nor gradient.
        z, e = xp.where(is_finite(z, xp), xp.astype(z, live.dtype), 0.0), xp.astype(e, live.dtype)
        slope = xp.matmul(z, w[1:, :]) + w[0, :]
        first, slope = slope[..., 0], slope[..., 1:]
        expected = xp.sum(slope * xp.matmul(xp.exp(live), e), axis=-1)
        drawn = xp.sum(slope * e[place, :], axis=-1)
        return TokenValue(first + drawn, first + expected)

    def update(
        self, prefix: Numbers, words: Numbers, *, tokens: Numbers, token_kl: Numbers, mask: Numbers | None = None
    ) -> TokenCritic:
        """Learn from a batch whose gradients have all been taken; returns this critic.

        A row with a token KL that is not finite is left out.

        Args:
            prefix, words, tokens: as in `value`.
            token_kl: exact KL(q_t‖p_t) at each prefix, (batch, time).
            mask: True where a token counts.

        Raises:
            InputError: a mask that is none, or numbers of a prefix or a word that are not finite.
            ShapeError: shapes that do not go together, or other numbers than before.
        """
        z, e, drawn, kl = (to_numpy(x) for x in (prefix, words, tokens, token_kl))
        self._check(z, e, (*kl.shape, len(e)), drawn.shape)
        counts = np.ones(kl.shape, dtype=bool) if mask is None else to_numpy(mask)
        if counts.shape != kl.shape:
            raise ShapeError(f"mask has shape {counts.shape}, but token_kl has {kl.shape}")
        check_mask(counts)
        counts = counts != 0
        kl = np.where(counts, kl.astype(np.float64), 0.0)
        counts &= np.isfinite(kl).all(axis=1, keepdims=True)
        kl = np.where(counts, kl, 0.0)
        to_come = (np.cumsum(kl[:, ::-1], axis=1)[:, ::-1] - kl)[counts]
        z, e = _with_one(z[counts]), _with_one(e[drawn[counts]])
        if not (np.isfinite(z).all() and np.isfinite(e).all()):
            raise InputError("prefix or words hold a number that is not finite at a counted token")
        self._learn(z, e, to_come)
        return self

    def state(self) -> dict[str, Any]:
        """Plain arrays and numbers, for a checkpoint; see `restore`."""
        return {
            "schema": SCHEMA,
            "memory": self.memory,
            "batches": self.batches,
            "widths": self._widths,
            "weights": self._weights.copy(),
            "sums": {name: values.copy() for name, values in self._sums.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> TokenCritic:
        """Go on from what `state` returned on a critic with the same memory; returns this one.

        Raises:
            InputError: a state of another memory or version, or none.
        """
        if not isinstance(state, Mapping) or state.get("schema") != SCHEMA:
            raise InputError("what came is no state of a TokenCritic of this version: pass what state() returned")
        if state["memory"] != self.memory:
            raise InputError(f"a state with memory={state['memory']} came to a critic of {self.memory}: use the same")
        self.batches, self._widths = int(state["batches"]), (int(state["widths"][0]), int(state["widths"][1]))
        self._weights = np.array(to_numpy(state["weights"]), dtype=np.float64)
        self._sums = {name: np.array(to_numpy(x), dtype=np.float64) for name, x in state["sums"].items()}
        return self

    def _check(self, z: Array, e: Array, logprobs: tuple[int, ...], tokens: tuple[int, ...]) -> None:
        shapes = tuple(z.shape), tuple(e.shape)
        if z.ndim != 3 or e.ndim != 2 or logprobs != (*shapes[0][:2], shapes[1][0]) or tokens != logprobs[:2]:
            raise ShapeError(
                f"prefix has shape {shapes[0]}, words {shapes[1]}, tokens {tokens} and the distributions {logprobs}, "
                "but they are (batch, time, numbers), (vocab, numbers), (batch, time) and (batch, time, vocab)"
            )
        widths = (int(z.shape[2]), int(e.shape[1]))
        if self.batches and widths != self._widths:
            raise ShapeError(f"{widths} numbers of a prefix and a word came, but the critic learned {self._widths}")
        self._widths = widths

    def _chosen(self) -> Float64:
        """W of the ridge that foretold best, (1 + prefix numbers, 1 + word numbers)."""
        shape = (self._widths[0] + 1, self._widths[1] + 1)
        if not self.batches:
            return np.zeros(shape)
        return self._weights[:, int(np.argmin(self._sums["loss"]))].reshape(shape)

    def _learn(self, z: Float64, e: Float64, to_come: Float64) -> None:
        size = z.shape[1] * e.shape[1]
        if not self.batches:
            self._weights = np.zeros((size, len(RIDGES)))
            shapes = {"gram": (size, size), "right": (size,), "loss": (len(RIDGES),), "totals": (3,)}
            self._sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        sums = self._sums
        for values in sums.values():
            values *= self.memory
        for start in range(0, len(z), CHUNK):
            at = slice(start, start + CHUNK)
            x = (z[at, :, None] * e[at, None, :]).reshape(-1, size)
            sums["loss"] += np.sum((to_come[at, None] - x @ self._weights) ** 2, axis=0)
            sums["gram"] += x.T @ x
            sums["right"] += x.T @ to_come[at]
        sums["totals"] += np.array([len(z), to_come.sum(), to_come @ to_come])
        self.batches += 1
        self._weights = _ridges(sums["gram"], sums["right"], float(sums["totals"][0]))


def _with_one(values: np.ndarray) -> Float64:
    return np.column_stack([np.ones(len(values)), values.astype(np.float64)])


def _ridges(gram: Float64, right: Float64, tokens: float) -> Float64:
    """Coefficients for every ridge, (columns, ridges); each column is held as if it had size 1."""
    size = np.sqrt(np.diagonal(gram) / max(tokens, 1e-300))
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 1e-9 * size.max(initial=0.0))
    values, axes = np.linalg.eigh(gram * inverse[:, None] * inverse[None, :])
    along = axes.T @ (right * inverse)
    held = np.maximum(values, 0.0)[:, None] + np.array(RIDGES)
    return np.asarray((axes @ (along[:, None] / held)) * inverse[:, None])
