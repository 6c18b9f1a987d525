"""A batch of sampled sequences: token log-probs under two or three models, checked once, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from kullback.arrays import Float64, Groups, Numbers, check_shapes, to_numpy
from kullback.errors import InputError, ShapeError

POSITIVE_ALLOWED = 1e-3
"""Log-probs up to this are taken as rounding of 0, which half precision and servers do produce."""

TOKEN_COLUMNS = ("logprobs", "ref_logprobs", "behavior_logprobs", "token_kl", "ref_mass")

BLOCK = 1 << 18
"""Tokens converted to float64 at a time."""


@dataclass(frozen=True)
class Sequences:
    """Log-probs of sampled tokens, (batch, time), in nats; one row is one sequence.

    Attributes:
        logprobs: log q of the sampled tokens under the policy q.
        ref_logprobs: log p of the same tokens under the reference p.
        mask: True where a token counts; the token that ends a sequence counts.
        behavior_logprobs: log μ of the same tokens, where another policy μ drew them.
        token_kl: exact KL(q_t‖p_t) at the same prefixes.
        ref_mass: p_t of the tokens that q_t does not exclude; below 1 where top-p or top-k cuts q off.
        groups: the prompt of each row, (batch,).
    """

    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    mask: np.ndarray
    behavior_logprobs: np.ndarray | None = None
    token_kl: np.ndarray | None = None
    ref_mass: np.ndarray | None = None
    groups: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        logprobs: Numbers,
        ref_logprobs: Numbers,
        mask: Numbers | None = None,
        *,
        behavior_logprobs: Numbers | None = None,
        token_kl: Numbers | None = None,
        ref_mass: Numbers | None = None,
        groups: Groups | None = None,
    ) -> Sequences:
        """Check arrays of NumPy, torch or JAX, and keep them as NumPy.

        Raises:
            ShapeError: arrays that are not (batch, time), or do not have the same shape.
            InputError: a counted log-prob that is nan or positive, −inf where the sampler drew the token,
                a negative token KL, or no counted token at all.
        """
        q = to_numpy(logprobs)
        columns = {
            "ref_logprobs": ref_logprobs,
            "behavior_logprobs": behavior_logprobs,
            "token_kl": token_kl,
            "ref_mass": ref_mass,
        }
        arrays = {name: to_numpy(array) for name, array in columns.items() if array is not None}
        counted = np.ones(q.shape, dtype=bool) if mask is None else to_numpy(mask).astype(bool)
        check_shapes(q, {**arrays, "mask": counted})
        keys = None if groups is None else to_numpy(groups)
        if keys is not None and keys.shape != (len(q),):
            raise ShapeError(
                f"groups has shape {keys.shape}, but one prompt id for each of the {len(q)} rows is needed"
            )
        batch = cls(logprobs=q, mask=counted, groups=keys, **arrays)
        batch._check()
        return batch

    @classmethod
    def of_batch(cls, batch: Sequences | Mapping[str, Any]) -> Sequences:
        """A batch given as a mapping from column names to arrays; other columns are ignored."""
        if isinstance(batch, Sequences):
            return batch
        known = {field.name for field in fields(cls)}
        missing = {"logprobs", "ref_logprobs"} - set(batch)
        if missing:
            raise InputError(
                f"the batch has the columns {', '.join(map(str, batch))} and lacks {', '.join(sorted(missing))}"
            )
        return cls.of(**{name: array for name, array in batch.items() if name in known})

    def __len__(self) -> int:
        return len(self.logprobs)

    @property
    def lengths(self) -> np.ndarray:
        """Counted tokens of each row."""
        return np.asarray(self.mask.sum(axis=1))

    def select(self, rows: np.ndarray | slice) -> Sequences:
        """Some of the rows."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: array[rows] for name, array in columns.items() if array is not None})

    def blocks(self) -> Iterator[Sequences]:
        """The rows in order, a few at a time, as float64; masked tokens hold zeros."""
        rows = max(1, BLOCK // max(1, self.logprobs.shape[1]))
        for start in range(0, len(self), rows):
            part = self.select(slice(start, start + rows))
            tokens = {
                name: np.where(part.mask, getattr(part, name).astype(np.float64), 0.0)
                for name in TOKEN_COLUMNS
                if getattr(part, name) is not None
            }
            yield replace(part, **tokens)

    def log_ratio(self) -> Float64:
        """ℓ = log q − log p of every token, 0 where masked; +inf where the reference excludes the token."""
        return np.asarray(self.logprobs - self.ref_logprobs)

    def _check(self) -> None:
        if not self.mask.any():
            raise InputError(
                "the mask counts no token of any sequence: pass a mask that is True where a token was sampled"
            )
        off_policy = self.behavior_logprobs is not None
        drawn = "behavior_logprobs" if off_policy else "logprobs"
        for name in ("logprobs", "ref_logprobs", "behavior_logprobs"):
            array = getattr(self, name)
            if array is None:
                continue
            self._refuse(
                name,
                array,
                np.isnan(array),
                "log-probs in nats are needed: mask the token or mend its forward pass",
            )
            self._refuse(
                name,
                array,
                array > POSITIVE_ALLOWED,
                "a log-prob is at most 0: these look like logits, probabilities or negated log-probs",
            )
            if name == drawn:
                self._refuse(
                    name,
                    array,
                    np.isneginf(array),
                    "a token that was drawn cannot have probability 0 under what drew it: "
                    "score with the sampling settings it was drawn with",
                )
        if self.token_kl is not None:
            self._refuse("token_kl", self.token_kl, np.isnan(self.token_kl), "a KL in nats is needed")
            self._refuse(
                "token_kl",
                self.token_kl,
                self.token_kl < -1e-3,
                "a KL over the whole vocabulary is at least 0",
            )

    def _refuse(self, name: str, array: np.ndarray, wrong: np.ndarray, why: str) -> None:
        wrong = wrong & self.mask
        if wrong.any():
            row, token = (int(i) for i in np.argwhere(wrong)[0])
            count = int(wrong.sum())
            more = "" if count == 1 else f" (and {count - 1} more)"
            raise InputError(f"{name}[{row}, {token}] is {array[row, token]:g}{more}: {why}")
