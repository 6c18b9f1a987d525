"""Members of the package's own families as plain callables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kullback.auditing.expectations import Placement
from kullback.estimation.accumulator import estimate
from kullback.estimators import Estimator
from kullback.surrogates import Surrogate


@dataclass(frozen=True)
class Adapted:
    """A function to audit, what it is called, and where it stands."""

    fn: Callable[..., Any]
    name: str
    placement: Placement
    arrays: str


def adapted(fn: Callable[..., Any], placement: Placement, arrays: str) -> Adapted:
    """A function as it is; an estimator as a function of its column; a surrogate as the loss that it is."""
    if isinstance(fn, Surrogate):
        # A surrogate with the KL in the reward carries its own credit: it is a loss.
        return Adapted(fn.fn, fn.name, "loss" if placement == "reward" else placement, arrays)
    if isinstance(fn, Estimator):
        if fn.controls:
            return Adapted(partial(_fitted, estimator=fn), fn.name, placement, "numpy")
        call = fn.fn if fn.reads == "log_ratio" else _token_kl(fn)
        return Adapted(call, fn.name, placement, arrays)
    named = fn.func if isinstance(fn, partial) else fn
    return Adapted(fn, str(getattr(named, "__qualname__", type(fn).__name__)), placement, arrays)


def _token_kl(estimator: Estimator) -> Callable[..., Any]:
    def call(token_kl: Any) -> Any:
        return estimator.fn(token_kl)

    return call


def _fitted(
    logprobs: np.ndarray, ref_logprobs: np.ndarray, mask: np.ndarray, token_kl: np.ndarray, *, estimator: Estimator
) -> float:
    return estimate(logprobs, ref_logprobs, mask, token_kl=token_kl, estimator=estimator).value
