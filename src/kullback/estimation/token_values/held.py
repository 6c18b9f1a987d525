"""Sequences that are kept until all have come, since what is subtracted from each is fitted on the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.estimation.features import FEATURES
from kullback.estimation.ragged import Ragged
from kullback.estimation.sequences import Sequences
from kullback.estimation.token_values.subtraction import Controlled, controlled


@dataclass(frozen=True)
class Held:
    """Batches in the order in which they came."""

    batches: tuple[Sequences, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.batches)

    @staticmethod
    def takes(batch: Sequences | Ragged) -> bool:
        """Whether a batch has what token values are made of, and was drawn by the policy."""
        exact = batch.token_kl is not None and batch.deviation is not None
        return exact and batch.behavior_logprobs is None

    def __add__(self, other: Held) -> Held:
        return Held((*self.batches, *other.batches))

    def with_batch(self, batch: Sequences | Ragged) -> Held:
        """With a batch after these.

        Raises:
            InputError: it has other columns than those before.
        """
        blocks = tuple(batch.blocks())
        kinds = {_kind(one) for one in (*self.batches[-1:], *blocks)}
        if len(kinds) > 1:
            raise InputError(
                "batches came of which some have groups, a state or more deviations than others: "
                "give all of them the same columns"
            )
        return Held((*self.batches, *blocks))

    def controlled(self, *, per_token: bool) -> tuple[list[Sequences], Controlled | None]:
        """The batches with the controls subtracted from their token KLs, and how; None where nothing could be."""
        whole = _joined(self.batches)
        filled = np.asarray(whole.mask.any(axis=1))
        finite = bool(np.isfinite(np.asarray(whole.token_kl)).all() and np.isfinite(whole.log_ratio()).all())
        if not finite or not filled.any():
            return list(self.batches), None
        found = controlled(whole.select(filled), per_token=per_token)
        token_kl = np.array(whole.token_kl)
        token_kl[filled] = found.sequences.token_kl
        whole = replace(whole, token_kl=token_kl, state=None, deviation=None)
        return list(whole.blocks()), found

    def to_state(self) -> list[dict[str, Any]]:
        """Plain arrays by column."""
        return [{name: value for name, value in vars(one).items() if value is not None} for one in self.batches]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> Held:
        """What `to_state` wrote."""
        return cls(tuple(Sequences(**{name: np.asarray(value) for name, value in one.items()}) for one in state))


def _kind(batch: Sequences) -> tuple[object, ...]:
    widths = (None if (x := getattr(batch, name)) is None else x.shape[2] for name in FEATURES)
    return (batch.groups is None, batch.ref_mass is None, *widths)


def _joined(batches: Sequence[Sequences]) -> Sequences:
    """All rows as one batch, padded to the longest."""
    time = max(batch.mask.shape[1] for batch in batches)
    columns = {}
    for field in fields(Sequences):
        values = [getattr(batch, field.name) for batch in batches]
        if values[0] is not None:
            columns[field.name] = np.concatenate([_widened(x, time) if x.ndim > 1 else x for x in values])
    return Sequences(**columns)


def _widened(values: np.ndarray, time: int) -> np.ndarray:
    beyond = [(0, 0), (0, time - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
    return np.pad(values, beyond)
