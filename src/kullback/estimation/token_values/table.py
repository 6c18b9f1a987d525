"""The tokens of a batch end to end, with what is known of each prefix and of each token that was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.sequences import Sequences

FOLDS = 6
"""Parts into which the sequences of each prompt are dealt."""

STEPS = 32.0
"""Tokens that are 1 in the position's column, so that its square is of size 1 too."""

PROMPTS = 256
"""Prompts up to which each has an effect of its own in the value of a prefix."""

DISCOUNTS = (0.6, 1.0)
"""What a later token KL counts, a token on. What all but the last leave out is put in by the value of the prefixes to
come, which makes λ-returns of the whole KL; the one that fits is chosen on the training folds."""


@dataclass(frozen=True, eq=False)
class Table:
    """Counted tokens in their order; each row of the batch is one sequence.

    Attributes:
        row: the sequence of each token, (tokens,).
        prefix: z, numbers of the prefix: 1 and the position, then the state, (tokens, prefix columns).
        deviation: d, what the token has beyond its mean under the policy, (tokens, deviation columns); the
            log-ratio's first.
        value_columns: what the KL to come is predicted from, (tokens, value columns).
        to_come: the KL that came after the token, discounted, and the tokens that did, (tokens, 2 · discounts).
        later: the columns of the value of the prefixes after it, for each discount but the last, (tokens, …).
        total, length: Σ_t KL_t and the counted tokens of each sequence, (rows,).
        prompt: the number of each sequence's prompt, (rows,).
        fold: the part of each sequence, (rows,).
    """

    row: np.ndarray
    prefix: Float64
    deviation: Float64
    value_columns: Float64
    to_come: Float64
    later: Float64
    total: Float64
    length: Float64
    prompt: np.ndarray
    fold: np.ndarray

    @classmethod
    def of(cls, sequences: Sequences) -> Table:
        """Of float64 rows, each with a counted token, with `token_kl` and `deviation`."""
        mask, token_kl, deviation = sequences.mask, sequences.token_kl, sequences.deviation
        if token_kl is None or deviation is None:
            raise ValueError("token values need token_kl and deviation")
        row, _ = np.nonzero(mask)
        position = (np.cumsum(mask, axis=1) - 1)[mask] / STEPS
        state = np.zeros((len(row), 0)) if sequences.state is None else sequences.state[mask]
        kl = token_kl[mask]
        prompt = _prompts(sequences.groups, len(mask))
        ratio = sequences.log_ratio()[mask] - kl
        values = np.column_stack([np.ones(len(row)), position, position**2, kl, state, _effects(prompt, row)])
        return cls(
            row=row,
            prefix=np.column_stack([np.ones(len(row)), position, state]),
            deviation=np.column_stack([ratio, deviation[mask]]),
            value_columns=values,
            later=np.column_stack([_discounted(values, row, discount) for discount in DISCOUNTS[:-1]]),
            to_come=_to_come(token_kl, mask),
            total=np.where(mask, token_kl, 0.0).sum(axis=1),
            length=mask.sum(axis=1).astype(np.float64),
            prompt=prompt,
            fold=folds(prompt),
        )

    def rows(self, fold: int) -> np.ndarray:
        """The sequences of a fold, by number."""
        return np.asarray(np.flatnonzero(self.fold == fold))


def folds(prompt: np.ndarray) -> np.ndarray:
    """The fold of each sequence, (rows,): each prompt's sequences are dealt in turn, from another fold on each.

    By order and never by what was drawn, which would make the folds a choice.

    Example:
        >>> import numpy as np
        >>> from kullback.estimation.token_values.table import folds
        >>> folds(np.array([0, 0, 0, 1, 1, 1])).tolist()
        [0, 1, 2, 1, 2, 3]
    """
    order = np.argsort(prompt, kind="stable")
    first = np.searchsorted(prompt[order], prompt[order], side="left")
    rank = np.empty(len(prompt), dtype=np.int64)
    rank[order] = np.arange(len(prompt)) - first
    return np.asarray((rank + prompt) % max(1, min(FOLDS, len(prompt))))


def _prompts(groups: np.ndarray | None, rows: int) -> np.ndarray:
    """Prompts by number in the order in which they come; all rows are of one where none is named."""
    if groups is None:
        return np.zeros(rows, dtype=np.int64)
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in groups.tolist()], dtype=np.int64)


def _effects(prompt: np.ndarray, row: np.ndarray) -> Float64:
    """One column a prompt, (tokens, prompts); none where there is one prompt, or too many."""
    count = int(prompt.max()) + 1
    if count < 2 or count > PROMPTS:
        return np.zeros((len(row), 0))
    return np.asarray(np.eye(count)[prompt[row]])


def _discounted(values: Float64, row: np.ndarray, discount: float) -> Float64:
    """Σ_{u>t} γ^(u−t−1)·values_u within each sequence, (tokens, columns)."""
    length = np.bincount(row)
    ends = np.cumsum(length)
    found = np.zeros_like(values)
    for back in range(2, int(length.max(initial=0)) + 1):
        at = ends[length >= back] - back
        found[at] = values[at + 1] + discount * found[at + 1]
    return found


def _to_come(token_kl: Float64, mask: np.ndarray) -> Float64:
    """Σ_{u>t} γ^(u−t−1)·KL_u for each discount γ, and beside them the same of 1, (tokens, 2 · discounts)."""
    gamma = np.array(DISCOUNTS)
    series = np.stack([np.where(mask, token_kl, 0.0), mask.astype(np.float64)], axis=-1)[..., None]
    found = np.zeros((*mask.shape, 2, len(gamma)))
    later = np.zeros((len(mask), 2, len(gamma)))
    for t in range(mask.shape[1] - 1, -1, -1):
        found[:, t] = later
        counts = mask[:, t, None, None]
        later = np.where(counts, series[:, t] + gamma * later, later)
    return np.asarray(found[mask].reshape(-1, 2 * len(gamma)))
