"""A batch of sampled sequences: token log-probs under two or three models, checked once, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from kullback.arrays import (
    LOGPROBS,
    REF_LOGPROBS,
    REF_MASS,
    TOKEN_KL,
    Bounds,
    Float64,
    Groups,
    Numbers,
    group_keys,
    read,
)
from kullback.errors import InputError, shown
from kullback.estimation.features import FEATURES, Features, features

TOKEN_COLUMNS = ("logprobs", "ref_logprobs", "behavior_logprobs", "token_kl", "ref_mass")

IGNORED = ("tokens", "prompt_tokens", "sample", "step", "reward", "finish")
"""Columns that a mapping may have beside those that are read."""

BLOCK = 1 << 18
"""Tokens converted to float64 at a time."""


class NoTokenError(InputError):
    """A batch in which nothing is wrong and nothing counts."""


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
        state: numbers of each token's prefix, (batch, time, numbers).
        deviation: numbers of each token less their mean under the policy, (batch, time, numbers).
    """

    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    mask: np.ndarray
    behavior_logprobs: np.ndarray | None = None
    token_kl: np.ndarray | None = None
    ref_mass: np.ndarray | None = None
    groups: np.ndarray | None = None
    state: np.ndarray | None = None
    deviation: np.ndarray | None = None

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
        state: Features | None = None,
        deviation: Features | None = None,
    ) -> Sequences:
        """Check arrays of NumPy, torch or JAX, tables or ragged lists, and keep them as NumPy.

        Rows of lists may differ in length, each as long in every column; `None` stands where a number is not known,
        and has to be masked; what `np.ma` masks does not count.

        Raises:
            ShapeError: arrays that are not (batch, time), or rows of which two columns have different lengths.
            InputError: a mask that is not exactly 0 and 1, no counted token at all, or a counted number that cannot
                be right: nan, None, a positive log-prob, a server's sentinel, −inf where the sampler drew the token,
                a negative token KL, a mass outside [0, 1].
        """
        given = {
            "logprobs": logprobs,
            "ref_logprobs": ref_logprobs,
            "behavior_logprobs": behavior_logprobs,
            "token_kl": token_kl,
            "ref_mass": ref_mass,
        }
        given = {name: x for name, x in given.items() if x is not None or not _optional(name)}
        arrays, counts = read(given, mask, bounds_of(off_policy=behavior_logprobs is not None))
        if not counts.any():
            raise NoTokenError(
                "the mask counts no token of any sequence: pass a mask that is True where a token was sampled"
            )
        keys = None if groups is None else group_keys(groups, len(counts))
        several = {"state": state, "deviation": deviation}
        arrays |= {name: features(name, x, counts) for name, x in several.items() if x is not None}
        return cls(mask=counts, groups=keys, **arrays)

    @classmethod
    def of_batch(cls, batch: Sequences | Mapping[str, Any]) -> Sequences:
        """A batch given as a mapping from column names to arrays (or a table with such columns).

        The columns of `Sequences` are read; `tokens`, `prompt_tokens`, `sample`, `step`, `reward` and `finish` are
        ignored; any other name is refused, for a column that was meant and misspelt would be missed.

        Raises:
            InputError: log-probs that are missing, or a column of another name.
        """
        if isinstance(batch, Sequences):
            return batch
        known = [field.name for field in fields(cls)]
        named = columns_of(batch)
        missing = {"logprobs", "ref_logprobs"} - set(named)
        if missing:
            raise InputError(
                f"the batch has the columns {', '.join(map(str, named))} and lacks {', '.join(sorted(missing))}"
            )
        for name in named:
            if name not in known and name not in IGNORED:
                close = get_close_matches(str(name), known, n=1, cutoff=0.5)
                meant = f"did you mean {close[0]}? It" if close else "it"
                raise InputError(
                    f"the batch has a column {shown(name)}: {meant} is none of {', '.join(known)}, "
                    f"nor one of those that are ignored ({', '.join(IGNORED)}); rename it or leave it out"
                )
        return cls.of(**{name: array for name, array in named.items() if name in known})

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
            several = {name: getattr(part, name) for name in FEATURES if getattr(part, name) is not None}
            yield replace(part, **tokens, **{name: x.astype(np.float64) for name, x in several.items()})

    def log_ratio(self) -> Float64:
        """ℓ = log q − log p of every token, 0 where masked; +inf where the reference excludes the token."""
        return np.asarray(self.logprobs - self.ref_logprobs)


def bounds_of(*, off_policy: bool) -> dict[str, Bounds]:
    """What each column can hold: off-policy another law drew the tokens, and the policy may exclude one."""
    return {
        "logprobs": REF_LOGPROBS if off_policy else LOGPROBS,
        "ref_logprobs": REF_LOGPROBS,
        "behavior_logprobs": LOGPROBS,
        "token_kl": TOKEN_KL,
        "ref_mass": REF_MASS,
    }


def _optional(name: str) -> bool:
    return name not in ("logprobs", "ref_logprobs")


def columns_of(batch: Any) -> Mapping[str, Any]:
    """The columns by name, of a mapping or of a table of pandas, polars or pyarrow."""
    if isinstance(batch, Mapping):
        return batch
    if hasattr(batch, "to_pydict"):
        named: Mapping[str, Any] = batch.to_pydict()
        return named
    return {name: batch[name] for name in batch.columns}
