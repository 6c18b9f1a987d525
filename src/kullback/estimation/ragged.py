"""Sequences end to end, as files hold them: checked without being padded, and padded a few at a time where need be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kullback.arrays import Groups, check, group_keys
from kullback.errors import InputError, ShapeError
from kullback.estimation.features import FEATURES, check_finite
from kullback.estimation.sequences import BLOCK, TOKEN_COLUMNS, Sequences, bounds_of


@dataclass(frozen=True, eq=False)
class Ragged:
    """Log-probs of sampled tokens, (tokens,), in nats; sequence i is what lies from offsets[i] to offsets[i + 1].

    Attributes:
        logprobs, ref_logprobs, behavior_logprobs, token_kl, ref_mass: as in `Sequences`, end to end.
        offsets: where sequences begin, and where the last ends, (rows + 1,).
        mask: True where a token counts; None where every one does.
        groups: the prompt of each sequence, (rows,).
        state, deviation: as in `Sequences`, end to end, (tokens, numbers).
    """

    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    offsets: np.ndarray
    mask: np.ndarray | None = None
    behavior_logprobs: np.ndarray | None = None
    token_kl: np.ndarray | None = None
    ref_mass: np.ndarray | None = None
    groups: np.ndarray | None = None
    state: np.ndarray | None = None
    deviation: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        logprobs: np.ndarray,
        ref_logprobs: np.ndarray,
        offsets: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        behavior_logprobs: np.ndarray | None = None,
        token_kl: np.ndarray | None = None,
        ref_mass: np.ndarray | None = None,
        groups: Groups | None = None,
        state: np.ndarray | None = None,
        deviation: np.ndarray | None = None,
        first: int = 0,
    ) -> Ragged:
        """Check arrays of numbers and keep them as they are.

        Args:
            logprobs, ref_logprobs, behavior_logprobs, token_kl, ref_mass, mask: (tokens,).
            offsets: (rows + 1,), from 0 to the number of tokens.
            groups: the prompt of each sequence.
            state, deviation: (tokens, numbers).
            first: what row 0 is called in errors.

        Raises:
            ShapeError: columns of different lengths, or offsets that do not fit them.
            InputError: as `Sequences.of`, but that rows may all be empty.
        """
        found = cls(
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            offsets=np.asarray(offsets, dtype=np.int64),
            mask=None if mask is None or mask.all() else mask,
            behavior_logprobs=behavior_logprobs,
            token_kl=token_kl,
            ref_mass=ref_mass,
            groups=None if groups is None else group_keys(groups, len(offsets) - 1),
            state=state,
            deviation=deviation,
        )
        found._check_shapes()
        found._check_numbers(first)
        return found

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Of all sequences, counted or not."""
        return len(self.logprobs)

    def blocks(self) -> Iterator[Sequences]:
        """The rows in order, padded a few at a time, as float64; masked tokens hold zeros."""
        lengths = np.diff(self.offsets)
        start = 0
        while start < len(self):
            longest = np.maximum.accumulate(lengths[start : start + BLOCK])
            cells = longest * np.arange(1, len(longest) + 1)
            rows = max(1, int(np.searchsorted(cells, BLOCK, side="right")))
            stop = min(start + rows, len(self))
            yield self._padded(slice(start, stop), slice(int(self.offsets[start]), int(self.offsets[stop])))
            start = stop

    def few(self, rows: np.ndarray) -> Sequences:
        """Some of the rows, by number, padded, as float64; masked tokens hold zeros."""
        spans = [np.arange(start, end) for start, end in zip(self.offsets[rows], self.offsets[rows + 1], strict=True)]
        return self._padded(rows, np.concatenate([np.empty(0, dtype=np.intp), *spans]))

    def _padded(self, rows: np.ndarray | slice, tokens: np.ndarray | slice) -> Sequences:
        lengths = np.diff(self.offsets)[rows]
        there = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        mask = there.copy()
        if self.mask is not None:
            mask[there] = self.mask[tokens]
        columns = {}
        for name, values in self._columns().items():
            padded = np.zeros(there.shape)
            padded[there] = values[tokens]
            columns[name] = np.where(mask, padded, 0.0)
        for name, values in self._features().items():
            padded = np.zeros((*there.shape, values.shape[1]))
            padded[there] = values[tokens]
            columns[name] = np.where(mask[..., None], padded, 0.0)
        groups = None if self.groups is None else self.groups[rows]
        return Sequences(mask=mask, groups=groups, **columns)

    def _columns(self) -> dict[str, np.ndarray]:
        columns = {name: getattr(self, name) for name in TOKEN_COLUMNS}
        return {name: values for name, values in columns.items() if values is not None}

    def _features(self) -> dict[str, np.ndarray]:
        columns = {name: getattr(self, name) for name in FEATURES}
        return {name: values for name, values in columns.items() if values is not None}

    def _check_shapes(self) -> None:
        columns = self._columns() | ({} if self.mask is None else {"mask": self.mask})
        for name, values in columns.items():
            if values.shape != (self.tokens,):
                raise ShapeError(f"logprobs has {self.tokens} tokens end to end, and {name} has shape {values.shape}")
        for name, values in self._features().items():
            if values.ndim != 2 or len(values) != self.tokens or not values.shape[1]:
                raise ShapeError(f"{name} has shape {values.shape}, but {self.tokens} tokens have numbers there")
        ends = self.offsets
        if ends.ndim != 1 or not len(ends) or ends[0] != 0 or ends[-1] != self.tokens or (np.diff(ends) < 0).any():
            raise ShapeError(f"offsets rise from 0 to the number of tokens, {self.tokens}, but others came")

    def _check_numbers(self, first: int) -> None:
        bounds = bounds_of(off_policy=self.behavior_logprobs is not None)
        for name, values in self._columns().items():
            try:
                if self.tokens:
                    check(name, values, self.mask, bounds[name])
            except InputError:
                bad = ~np.asarray(bounds[name].hold(values)) & (True if self.mask is None else self.mask)
                self._refuse(name, int(np.argmax(bad)), first)

        for name, values in self._features().items():
            check_finite(name, values if self.mask is None else values[self.mask])

    def _refuse(self, name: str, token: int, first: int) -> None:
        """Say of a number that is wrong in which row it is."""
        row = int(np.searchsorted(self.offsets, token, side="right")) - 1
        part = slice(self.offsets[row], self.offsets[row + 1])
        counts = None if self.mask is None else self.mask[None, part]
        bounds = bounds_of(off_policy=self.behavior_logprobs is not None)[name]
        try:
            check(name, self._columns()[name][None, part], counts, bounds)
        except InputError as error:
            raise InputError(str(error).replace(f"{name}[0, ", f"{name}[{first + row}, ", 1)) from None
