"""A language model given by a table of next-token logits, one row a prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from kullback.arrays import Array, Float64, at_least_float32, namespace, to_numpy
from kullback.errors import InputError, ShapeError

LARGEST = 2_000_000
"""Tokens of all sequences together that a tree may have."""


def prefix_count(vocab: int, horizon: int) -> int:
    """Σ_t (V − 1)^t, t < horizon: the prefixes without eos, which are the rows of a tree's logits.

    Example:
        >>> from kullback.oracle.tree import prefix_count
        >>> prefix_count(3, 3)
        7
    """
    return sum((vocab - 1) ** t for t in range(horizon))


class TreeLM:
    """An autoregressive model with an end-of-sequence token and a horizon, as a tree of prefixes.

    A sequence ends with its first `eos`, which counts, or is cut after `horizon` tokens.

    Args:
        logits: next-token logits of every prefix without eos, shorter than the horizon, as an array
            (prefixes, vocab) of NumPy, torch or JAX; or a function from a prefix (a tuple of tokens) to
            its vocab logits. The prefixes are ordered by length, then lexicographically:
            (), (0,), (1,), …, (0, 0), …, leaving out every prefix that contains eos.
            −inf bans a token. Gradients flow to an array.
        eos: the token that ends a sequence.
        horizon: the most tokens a sequence has.

    Raises:
        ShapeError: the table does not have one row for each prefix.
        InputError: a horizon below 1, an eos outside the vocabulary, or a tree too large to write out.

    Example:
        >>> import numpy as np
        >>> from kullback.oracle import TreeLM
        >>> lm = TreeLM(np.zeros((3, 3)), eos=0, horizon=2)
        >>> lm.tokens.tolist(), lm.prefixes
        ([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]], ((), (1,), (2,)))
        >>> lm.mask[0].tolist()
        [True, False]
    """

    def __init__(
        self, logits: Array | Callable[[tuple[int, ...]], Sequence[float] | Float64], eos: int, horizon: int
    ) -> None:
        if horizon < 1:
            raise InputError(f"horizon={horizon} came, but a sequence has at least one token")
        if callable(logits):
            vocab = len(logits(()))
            logits = np.array([logits(prefix) for prefix in _prefixes(vocab, eos, horizon)], dtype=np.float64)
        self.logits = at_least_float32(np.asarray(logits) if isinstance(logits, list | tuple) else logits, "logits")
        self.eos, self.horizon, self.vocab = eos, horizon, int(self.logits.shape[-1])
        if not 0 <= eos < self.vocab:
            raise InputError(f"eos={eos} came, but the vocabulary has the tokens 0 to {self.vocab - 1}")
        self.prefixes = _prefixes(self.vocab, eos, horizon)
        if tuple(self.logits.shape) != (len(self.prefixes), self.vocab):
            raise ShapeError(
                f"logits has shape {tuple(self.logits.shape)}, but vocabulary {self.vocab}, eos and horizon {horizon} "
                f"make {len(self.prefixes)} prefixes: ({len(self.prefixes)}, {self.vocab}) is needed"
            )

    @property
    def tokens(self) -> np.ndarray:
        """Every sequence, (sequences, horizon), 0 beyond its end."""
        return _sequences(self.vocab, self.eos, self.horizon)[0]

    @property
    def mask(self) -> np.ndarray:
        """True for the tokens of a sequence, its eos included."""
        return _sequences(self.vocab, self.eos, self.horizon)[1]

    @property
    def places(self) -> np.ndarray:
        """The row of `logits` that each token was drawn from, (sequences, horizon)."""
        return _sequences(self.vocab, self.eos, self.horizon)[2]

    @cached_property
    def log_distributions(self) -> Array:
        """log-softmax of the logits, (prefixes, vocab)."""
        xp = namespace(self.logits)
        top = xp.max(self.logits, axis=-1, keepdims=True)
        shifted = self.logits - top
        return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))

    @cached_property
    def logprobs(self) -> Array:
        """Log-probs of the tokens of every sequence, (sequences, horizon), 0 where masked."""
        return self._read(self.log_distributions)

    @cached_property
    def sequence_logprobs(self) -> Array:
        """Log-probability of every sequence, (sequences,)."""
        return namespace(self.logits).sum(self.logprobs, axis=-1)

    @cached_property
    def prefix_logprobs(self) -> Array:
        """Log-probability that a sequence passes through each prefix, (prefixes,)."""
        xp = namespace(self.logits)
        parent, token = _parents(self.vocab, self.eos, self.horizon)
        flat = xp.reshape(self.log_distributions, (-1,))
        total = 0.0 * flat[: len(self.prefixes)]
        # Walk every prefix up to the root, adding the log-prob of the step it came by.
        at = np.arange(len(self.prefixes))
        while (at > 0).any():
            step = xp.take(flat, self._index(parent[at] * self.vocab + token[at]), axis=0)
            total = total + xp.where(self.constant(at > 0), step, 0.0 * step)
            at = parent[at]
        return total

    def token_rows(self, values: Array) -> Array:
        """A number for every prefix, (prefixes,), laid out along the sequences, 0 where masked."""
        xp = namespace(values)
        rows = xp.take(values, self._index(self.places.ravel()), axis=0)
        rows = xp.reshape(rows, self.places.shape)
        return xp.where(self.constant(self.mask), rows, 0.0 * rows)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Numbers of n sequences drawn from the model, rows of `tokens`."""
        weights = np.exp(to_numpy(self.sequence_logprobs).astype(np.float64))
        return rng.choice(len(weights), size=n, p=weights / weights.sum())

    def _read(self, table: Array) -> Array:
        xp = namespace(table)
        flat = xp.reshape(table, (-1,))
        values = xp.take(flat, self._index((self.places * self.vocab + self.tokens).ravel()), axis=0)
        values = xp.reshape(values, self.places.shape)
        return xp.where(self.constant(self.mask), values, xp.zeros_like(values))

    def _index(self, array: np.ndarray) -> Array:
        return self.constant(array.astype(np.int64))

    def constant(self, array: np.ndarray) -> Array:
        """A NumPy array in the library and on the device of the logits."""
        xp = namespace(self.logits)
        return xp.asarray(array.copy(), device=getattr(self.logits, "device", None))


@lru_cache(maxsize=64)
def _prefixes(vocab: int, eos: int, horizon: int) -> tuple[tuple[int, ...], ...]:
    going_on = [token for token in range(vocab) if token != eos]
    size = prefix_count(vocab, horizon) * vocab * horizon
    if size > LARGEST:
        raise InputError(
            f"vocabulary {vocab} and horizon {horizon} make a tree of about {size:,} tokens, over {LARGEST:,}: "
            "use a smaller world"
        )
    level: list[tuple[int, ...]] = [()]
    found: list[tuple[int, ...]] = []
    for _ in range(horizon):
        found += level
        level = [(*prefix, token) for prefix in level for token in going_on]
    return tuple(found)


@lru_cache(maxsize=64)
def _sequences(vocab: int, eos: int, horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = {prefix: i for i, prefix in enumerate(_prefixes(vocab, eos, horizon))}
    whole = [
        (*prefix, token) for prefix in place for token in range(vocab) if token == eos or len(prefix) == horizon - 1
    ]
    whole.sort()
    tokens = np.zeros((len(whole), horizon), dtype=np.int64)
    mask = np.zeros((len(whole), horizon), dtype=bool)
    places = np.zeros((len(whole), horizon), dtype=np.int64)
    for row, sequence in enumerate(whole):
        tokens[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
        places[row, : len(sequence)] = [place[sequence[:t]] for t in range(len(sequence))]
    for array in (tokens, mask, places):
        array.setflags(write=False)
    return tokens, mask, places


@lru_cache(maxsize=64)
def _parents(vocab: int, eos: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    prefixes = _prefixes(vocab, eos, horizon)
    place = {prefix: i for i, prefix in enumerate(prefixes)}
    parent = np.array([place[prefix[:-1]] if prefix else 0 for prefix in prefixes], dtype=np.int64)
    token = np.array([prefix[-1] if prefix else 0 for prefix in prefixes], dtype=np.int64)
    return parent, token
