"""Members of the package's own families as plain functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from kullback.arrays import Array
from kullback.auditing.options import Options, Placement
from kullback.auditing.subject.functions import Function
from kullback.estimation.accumulator import estimate
from kullback.estimators import Estimator
from kullback.surrogates import Surrogate


@dataclass(frozen=True)
class PlainFunction:
    """A function to audit, what it is called, where it stands, and the arrays that it takes."""

    fn: Function
    name: str
    placement: Placement
    arrays: str


def plain_function(fn: Function, options: Options) -> PlainFunction:
    """A function as it is; an estimator as a function of its column; a surrogate as the loss that it is."""
    placement, arrays = options.placement, options.arrays
    if isinstance(fn, Surrogate):
        # A surrogate with the KL in the reward carries its own credit: it is a loss.
        return PlainFunction(fn.fn, fn.name, "loss" if placement == "reward" else placement, arrays)
    if isinstance(fn, Estimator):
        if fn.controls:
            return PlainFunction(partial(_fitted, estimator=fn), fn.name, placement, "numpy")
        call = fn.fn if fn.reads == "log_ratio" else _token_kl(fn)
        return PlainFunction(call, fn.name, placement, arrays)
    named = fn.func if isinstance(fn, partial) else fn
    return PlainFunction(fn, str(getattr(named, "__qualname__", type(fn).__name__)), placement, arrays)


def _token_kl(estimator: Estimator) -> Function:
    def call(token_kl: Array) -> Array:
        return estimator.fn(token_kl)

    return call


def _fitted(
    logprobs: np.ndarray, ref_logprobs: np.ndarray, mask: np.ndarray, token_kl: np.ndarray, *, estimator: Estimator
) -> float:
    return estimate(logprobs, ref_logprobs, mask, token_kl=token_kl, estimator=estimator).value
