"""What a fit needs of each fold, as sums that add up over folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Float64
from kullback.estimation.token_values.table import Table

CHUNK = 1 << 14
"""Tokens whose products of prefix and deviation are held at a time."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the tokens of some sequences, x = z ⊗ d, h the columns of the value, F the KL to come.

    Attributes:
        tokens: how many.
        gram: Σ x x', (crosses, crosses).
        target: Σ x F', (crosses, targets).
        crossed: Σ x h', (crosses, value columns).
        later: Σ x Φ', Φ the h of the prefixes to come by discount, (crosses, value columns · (discounts − 1)).
        values: Σ h h', (value columns, value columns).
        value_target: Σ h F', (value columns, targets).
        prefix: Σ z z', (prefix columns, prefix columns).
        deviation: Σ d², (deviation columns,).
        total, length: Σ of the token KLs, and of the tokens.
    """

    tokens: float
    gram: Float64
    target: Float64
    crossed: Float64
    later: Float64
    values: Float64
    value_target: Float64
    prefix: Float64
    deviation: Float64
    total: float
    length: float

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def sums_of(table: Table, count: int) -> tuple[list[Sums], Float64]:
    """The sums of each of so many folds, and Σ_t x of every sequence, (rows, crosses)."""
    crosses = table.prefix.shape[1] * table.deviation.shape[1]
    by_row = np.zeros((len(table.total), crosses))
    of_token = table.fold[table.row]
    found = []
    for fold in range(count):
        parts = []
        at = np.flatnonzero(of_token == fold)
        for start in range(0, max(1, len(at)), CHUNK):
            chunk = at[start : start + CHUNK]
            x = crossed(table.prefix[chunk], table.deviation[chunk])
            rows, first = np.unique(table.row[chunk], return_index=True)
            if len(rows):
                by_row[rows] += np.add.reduceat(x, first, axis=0)
            parts.append(_sums(table, chunk, x))
        rows = table.fold == fold
        # Of whole sequences, not of chunks.
        parts.append(_nothing(parts[0], float(table.total[rows].sum()), float(table.length[rows].sum())))
        found.append(added(parts))
    return found, by_row


def crossed(prefix: Float64, deviation: Float64) -> Float64:
    """z ⊗ d of every token, (tokens, prefix columns · deviation columns)."""
    return (prefix[:, :, None] * deviation[:, None, :]).reshape(len(prefix), -1)


def added(parts: Sequence[Sums]) -> Sums:
    """Of all parts; at least one."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _sums(table: Table, at: np.ndarray, x: Float64) -> Sums:
    z, h, target = table.prefix[at], table.value_columns[at], table.to_come[at]
    return Sums(
        tokens=float(len(at)),
        gram=x.T @ x,
        target=x.T @ target,
        crossed=x.T @ h,
        later=x.T @ table.later[at],
        values=h.T @ h,
        value_target=h.T @ target,
        prefix=z.T @ z,
        deviation=(table.deviation[at] ** 2).sum(axis=0),
        total=0.0,
        length=0.0,
    )


def _nothing(like: Sums, total: float, length: float) -> Sums:
    empty = {name: np.zeros_like(value) for name, value in vars(like).items() if isinstance(value, np.ndarray)}
    return Sums(tokens=0.0, total=total, length=length, **empty)
