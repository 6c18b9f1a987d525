"""A rollout: what is known of one sampled sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from kullback.arrays import column, counted, to_numpy
from kullback.errors import InputError, ShapeError, shown
from kullback.estimation.features import FEATURES as FEATURES
from kullback.estimation.sequences import TOKEN_COLUMNS as TOKEN_COLUMNS

LOGPROB_COLUMNS = ("logprobs", "ref_logprobs", "behavior_logprobs")
"""The token columns that are log-probs, each of which follows a law."""

Finish = Literal["end", "length", "unknown"]
Sampler = Literal["policy", "reference"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One sampled sequence: (tokens,) arrays, log-probs in nats. What is not known is None.

    Lists and arrays of any library are taken; numbers are kept as NumPy arrays and token ids as lists.

    Attributes:
        logprobs, ref_logprobs: log q of the policy, log p of the reference.
        behavior_logprobs: log μ of what drew the tokens, where that is neither of the two as they were scored.
        prompt_id: the prompt's number or name; rows of one prompt form a cluster.
        sample: which of the prompt's completions it is.
        step: the training step at which it was drawn.
        prompt_tokens: the prompt's token ids.
        tokens: the completion's token ids, the end token included.
        mask: True where a token counts; None where every one does.
        token_kl: exact token KL, of what drew the sequence from the other model.
        ref_mass: the other model's probability of the tokens that the sampler does not exclude.
        state: numbers of each token's prefix, (tokens, numbers); with `deviation` they make the estimate more precise.
        deviation: numbers of each token less their mean under what drew it, (tokens, numbers).
        sampled_from: which of the two models was to be sampled.
        reward: what the sequence was given.
        finish: whether it came to its "end" or was cut at a "length".
        missing_end: True where it came to its end, but the token that ended it has no log-prob.
        text: the completion as text.
        top: for each token, the log-probs of some tokens at its place, by id or by text; of what drew the tokens.
        extra: what else its file says of it, by the file's names; numbers and texts alone.

    What drew a sequence can stand alone, as `behavior_logprobs`, to be scored or joined with another file.

    Raises:
        InputError: log-probs of one law that is not the sampler's, or of none; a sampler or finish that is none.
        ShapeError: columns that do not have a number for each token.

    Example:
        >>> import kullback as kb
        >>> kb.Rollout(logprobs=[-0.1, -2.0], ref_logprobs=[-0.3, -1.5], prompt_id=0).length
        2
    """

    logprobs: np.ndarray | None = None
    ref_logprobs: np.ndarray | None = None
    behavior_logprobs: np.ndarray | None = None
    prompt_id: int | str | None = None
    sample: int | None = None
    step: int | None = None
    prompt_tokens: Sequence[int] | None = None
    tokens: Sequence[int] | None = None
    mask: np.ndarray | None = None
    token_kl: np.ndarray | None = None
    ref_mass: np.ndarray | None = None
    state: np.ndarray | None = None
    deviation: np.ndarray | None = None
    sampled_from: Sampler = "policy"
    reward: float | None = None
    finish: Finish = "unknown"
    missing_end: bool = False
    text: str | None = None
    top: Sequence[Mapping[int, float] | Mapping[str, float]] | None = None
    extra: Mapping[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*TOKEN_COLUMNS, "mask"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _counts(value) if name == "mask" else _numbers(name, value))
        for name in FEATURES:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _several(name, value))
        for name in ("prompt_tokens", "tokens"):
            if hasattr(value := getattr(self, name), "tolist"):
                object.__setattr__(self, name, value.tolist())
        self._check_laws()
        self._check_shapes()
        for name, known in (("sampled_from", get_args(Sampler)), ("finish", get_args(Finish))):
            if getattr(self, name) not in known:
                raise InputError(f"{name}={shown(getattr(self, name))} came, but it is one of {', '.join(known)}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rollout):
            return NotImplemented
        return all(_same(getattr(self, one.name), getattr(other, one.name)) for one in fields(self))

    @property
    def length(self) -> int:
        """Tokens of the completion, counted or not."""
        return next(len(column) for name in LOGPROB_COLUMNS if (column := getattr(self, name)) is not None)

    @property
    def counted(self) -> np.ndarray:
        """The mask; all True where there is none."""
        return np.ones(self.length, dtype=bool) if self.mask is None else self.mask

    def column(self, name: str) -> np.ndarray:
        """A token column that has to be there.

        Raises:
            InputError: it is None.
        """
        found: np.ndarray | None = getattr(self, name)
        if found is None:
            raise InputError(f"the rollout has no {name}, which is needed here: score its tokens first")
        return found

    def _check_laws(self) -> None:
        given = [name for name in LOGPROB_COLUMNS if getattr(self, name) is not None]
        if len(given) < 2 and given != ["behavior_logprobs"]:
            raise InputError(
                f"a rollout with {given[0] if given else 'no log-probs'} came, but log-probs of two laws are needed: "
                "logprobs and ref_logprobs, or behavior_logprobs and one of them"
            )

    def _check_shapes(self) -> None:
        columns = {name: getattr(self, name) for name in (*TOKEN_COLUMNS, "mask") if getattr(self, name) is not None}
        shapes = {name: column.shape for name, column in columns.items()}
        for name in ("tokens", "top", *FEATURES):
            if (listed := getattr(self, name)) is not None:
                shapes[name] = (len(listed),)
        first = next(iter(shapes))
        for name, shape in shapes.items():
            if len(shape) != 1:
                raise ShapeError(f"{name} has shape {shape}, but a rollout is one sequence, with shape (tokens,)")
            if shape != shapes[first]:
                raise ShapeError(
                    f"{first} has {shapes[first][0]} tokens and {name} has {shape[0]}: "
                    "every column of a sequence has one number for each token"
                )


def count_tokens(rollouts: Iterable[Rollout]) -> int:
    """Counted tokens of all rollouts."""
    return sum(int(np.sum(rollout.counted)) for rollout in rollouts)


def _numbers(name: str, value: Any) -> np.ndarray:
    """A column, (tokens,); nan where a list has None, which a mask has to leave out."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and not isinstance(value, np.ma.MaskedArray):
        return to_numpy(value)
    nested = isinstance(value, list | tuple) and any(hasattr(part, "__len__") for part in value)
    if nested and not any(isinstance(part, str) for part in value):
        raise ShapeError(f"{name} has shape {np.shape(value)}, but a rollout is one sequence, with shape (tokens,)")
    if getattr(value, "ndim", 1) != 1:
        raise ShapeError(f"{name} has shape {tuple(value.shape)}, but a rollout is one sequence, with shape (tokens,)")
    table = column(name, [value])
    if table.hidden is not None and table.hidden.any():
        raise InputError(f"{name} is a masked array, but a rollout has a mask of its own: pass mask=~{name}.mask")
    return np.asarray(table.values[0])


def _several(name: str, value: Any) -> np.ndarray:
    """Several numbers for each token, (tokens, numbers)."""
    try:
        found = to_numpy(value).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{name} has to have as many numbers for every token ({error})") from error
    if found.ndim != 2:
        raise ShapeError(f"{name} has shape {found.shape}, but it has several numbers a token: (tokens, numbers)")
    return found


def _counts(value: Any) -> np.ndarray:
    """A mask as bool, (tokens,); it has to be bool, or exactly 0 and 1."""
    if isinstance(value, np.ndarray) and value.dtype == bool and not isinstance(value, np.ma.MaskedArray):
        return value
    if getattr(value, "ndim", 1) != 1:
        return np.asarray(to_numpy(value))
    table = column("mask", [value])
    return np.asarray(counted(table, table.values.shape)[0])


def _same(mine: object, other: object) -> bool:
    if mine is None or other is None or isinstance(mine, str | Mapping):
        return mine is other or mine == other
    if isinstance(mine, Sequence) and any(isinstance(part, Mapping) for part in mine):
        return isinstance(other, Sequence) and list(mine) == list(other)
    return np.array_equal(np.asarray(mine), np.asarray(other), equal_nan=True)
