"""What a loss is computed of: log-probs that passed the gate, with and without their gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from typing import Any, Generic

import numpy as np

from kullback.arrays import (
    LOGPROBS,
    REF_LOGPROBS,
    TOKEN_KL,
    A,
    Array,
    Bounds,
    Column,
    Look,
    Namespace,
    Numbers,
    aligned,
    at_least_float32,
    can_look,
    check_all,
    check_mask,
    check_shapes,
    column,
    counted,
    cumulative_sum,
    equals,
    inner,
    is_jax,
    is_torch,
    namespace,
    nothing_hidden,
    refuse_absent,
    stop_gradient,
    to_numpy,
    wrong,
)
from kullback.errors import InputError, ShapeError


@dataclass(frozen=True)
class Rows(Generic[A]):
    """Log-probs (batch, time): the policy's and the token KLs as they came, everything else without gradient.

    Attributes:
        xp: the library's functions.
        live, live_kl: with gradient.
        policy, reference, behavior: without.
        mask: True where a token counts.
        poison: None where the numbers were looked at and are right. While the library traces they cannot be: then
            a scalar that is nan if one of them is wrong, and 0 if all are right.
        finite: whether every counted number is known to be finite, so that nothing has to be guarded.
        whole: whether every masked number is too, so that a coefficient of 0 does for a mask.
    """

    xp: Namespace
    live: A
    live_kl: A | None
    policy: A
    reference: A
    behavior: A | None
    mask: Array
    poison: A | None
    finite: bool
    whole: bool

    @classmethod
    def of(
        cls,
        logprobs: A,
        ref_logprobs: Numbers,
        mask: Numbers | None,
        *,
        behavior_logprobs: Numbers | None = None,
        token_kl: A | Numbers | None = None,
    ) -> Rows[A]:
        """Arrays of torch or JAX (and beside them of NumPy, or lists), looked at where that is possible.

        Raises:
            InputError: arrays of neither library, a mask that is none, or counted numbers that cannot be right.
            ShapeError: arrays that are not (batch, time), or do not have one shape.
        """
        if not (is_torch(logprobs) or is_jax(logprobs)):
            raise InputError(f"logprobs is a {type(logprobs).__name__}, but gradients need torch or JAX arrays")
        q = at_least_float32(logprobs, "logprobs")
        check_shapes(q, {})
        others = {"ref_logprobs": ref_logprobs, "behavior_logprobs": behavior_logprobs, "token_kl": token_kl}
        read = {name: _read(name, x) for name, x in others.items() if x is not None or name == "ref_logprobs"}
        shown = _shown(q, {name: x for name, x in read.items() if isinstance(x, Column)})
        found = {
            name: at_least_float32(beside(_numbers(x, q) if isinstance(x, Column) else x, q), name)
            for name, x in read.items()
        }
        check_shapes(q, found)
        counts = _counts(q, mask, shown)
        fixed = {"logprobs": stop_gradient(q), **{name: stop_gradient(x) for name, x in found.items()}}
        for name, x in read.items():
            if isinstance(x, Column):
                refuse_absent(name, x, to_numpy(counts))
        poison, look = _look(fixed, counts, _odd_mask(mask))
        return cls(
            xp=namespace(q),
            live=q,
            live_kl=found.get("token_kl"),
            policy=fixed["logprobs"],
            reference=fixed["ref_logprobs"],
            behavior=fixed.get("behavior_logprobs"),
            mask=counts,
            poison=poison,
            finite=look in ("whole", "finite"),
            whole=look == "whole",
        )

    def kept(self, values: A) -> A:
        """values where a token counts, 0 elsewhere."""
        return self.xp.where(self.mask, values, 0.0)

    def kept_finite(self, values: A) -> A:
        """The same of values that are the caller's own, and finite wherever the numbers are."""
        # In place where the library can: on the CPU torch's `where` with a scalar takes four times as long, and fresh
        # memory costs more than arithmetic.
        if not self.whole:
            return self.kept(values)
        values *= self._ones
        return values

    @cached_property
    def _ones(self) -> A:
        """1 where a token counts, 0 elsewhere, in the dtype of the log-probs."""
        mask: Any = self.mask
        ones: A = self.xp.astype(mask, self.policy.dtype)
        return ones

    def mean(self, values: A) -> A:
        """The mean over rows of the sum over tokens."""
        return self.xp.sum(values) / values.shape[0]

    def gradient(self, coefficient: A | None, live: A, fixed: A) -> A:
        """0, with the gradient Σ c_t ∇live_t of the counted tokens at which live is finite."""
        if self.whole and coefficient is not None:
            # One pass in place of five: neither the masked log-probs nor their products become arrays.
            total = inner(coefficient * self._ones, live) / live.shape[0]
            return total - stop_gradient(total)
        usable = self.xp.where(self.mask if self.finite else self.mask & is_finite(fixed, self.xp), live, 0.0)
        if self.poison is not None:
            coefficient = 1.0 + self.poison if coefficient is None else coefficient + self.poison
        total = self.mean(usable if coefficient is None else coefficient * usable)
        return total - stop_gradient(total)

    def log_ratio(self, a: A) -> A:
        """log a − log μ at the tokens that count, 0 elsewhere."""
        return self.kept_finite(a - (self.policy if self.behavior is None else self.behavior))

    def ratio(self) -> A:
        """ρ_{1:t}."""
        return self.xp.exp(cumulative_sum(self.log_ratio(self.policy)))


def is_finite(values: Array, xp: Namespace) -> Array:
    """Where values are finite."""
    # torch's isfinite takes three times as long on the CPU, as much as the rest of a term.
    return xp.abs(values) < xp.inf


def beside(x: Any, like: A) -> A:
    """An array of any kind in the library and on the device of another one."""
    if is_torch(like):
        moved: Any = x if is_torch(x) else namespace(like).asarray(np.array(to_numpy(x)), device=like.device)
        there: A = moved if moved.device == like.device else moved.to(like.device)
        return there
    if is_torch(x):
        x = to_numpy(x)
    other: Any = namespace(like).asarray(x)
    same: A = other
    return same


def _read(name: str, x: Any) -> Any:
    """An array as it came, and everything else as a column of numbers."""
    plain = isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray) and x.dtype != object
    if is_jax(x) or plain or (is_torch(x) and not (x.is_nested or x.is_sparse)):
        return x
    return column(name, x)


def _numbers(table: Column, like: Array) -> np.ndarray:
    """Python's numbers in the dtype of the log-probs, which then is the loss's."""
    return table.values.astype(str(like.dtype).rpartition(".")[2])


def _shown(q: Array, tables: dict[str, Column]) -> np.ndarray | None:
    """Where lists and masked arrays have a number; each of their rows has to be as long as the log-probs are wide."""
    if not tables:
        return None
    like = Column(np.broadcast_to(np.float32(0.0), tuple(q.shape)))
    aligned({"logprobs": like, **tables}, None)
    return nothing_hidden(tables.values())


def _counts(q: Array, mask: Any, shown: np.ndarray | None) -> Array:
    xp, shape = namespace(q), tuple(q.shape)
    counts: Any = None
    if mask is not None:
        table = _read("mask", mask)
        if isinstance(table, Column):
            (padded,) = aligned({"logprobs": Column(np.broadcast_to(np.float32(0.0), shape))}, table)[1:]
            counts = beside(counted(padded or table, shape), q)
        else:
            if tuple(table.shape) != shape:
                counted(Column(np.broadcast_to(np.int8(0), tuple(table.shape))), shape)
            counts = beside(table, q)
            if not xp.isdtype(counts.dtype, "bool"):
                check_mask(counts)
                counts = counts != 0
    if shown is not None:
        counts = beside(shown, q) if counts is None else counts & beside(shown, q)
    return xp.ones_like(stop_gradient(q), dtype=xp.bool) if counts is None else counts


def _odd_mask(mask: Any) -> Array | None:
    """While a library traces: whether an entry of a mask is neither 0 nor 1."""
    if mask is None or isinstance(mask, np.ndarray) or not (is_torch(mask) or is_jax(mask)) or can_look(mask):
        return None
    xp = namespace(mask)
    return None if xp.isdtype(mask.dtype, "bool") else xp.any(~(equals(mask, 0) | equals(mask, 1)))


def _look(fixed: Mapping[str, A], counts: Array, odd: Array | None) -> tuple[A | None, Look]:
    """`Rows.poison`, and what was seen."""
    bounds: dict[str, Bounds] = {
        "logprobs": LOGPROBS if "behavior_logprobs" not in fixed else REF_LOGPROBS,
        "ref_logprobs": REF_LOGPROBS,
        "behavior_logprobs": LOGPROBS,
        "token_kl": TOKEN_KL,
    }
    columns = {name: (x, bounds[name]) for name, x in fixed.items()}
    look = "blind" if odd is not None else check_all(columns, counts)
    if look != "blind":
        return None, look
    xp = namespace(counts)
    found = [xp.any(wrong(x, counts, bound)) for x, bound in columns.values()]
    bad = reduce(or_, found if odd is None else [odd, *found])
    q = fixed["logprobs"]
    zero = xp.sum(xp.zeros_like(q[:1, :1]))
    return xp.where(bad, zero + float("nan"), zero), look


def same_shape(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Hold that an array is one number a row, or one a token.

    Raises:
        ShapeError: it is neither.
    """
    if tuple(x.shape) not in (shape[:1], shape):
        raise ShapeError(
            f"{name} has shape {tuple(x.shape)}, but (batch,) or (batch, time) is needed, here {shape[:1]} or {shape}"
        )
