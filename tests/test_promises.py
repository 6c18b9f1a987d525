"""Every promise of every estimator, against exact enumeration; and the proof that a false one is caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS, Backend, host
from hypothesis import given, settings
from laws import NAMED, PROMISES, broken_promises, holds
from worlds import logit_pairs, world

import kullback as kb
from kullback.estimators import LEVELS, ByLevel
from kullback.targets import TARGETS

SIMPLE = [e for e in kb.ESTIMATORS if not e.controls]


@pytest.mark.parametrize("estimator", SIMPLE, ids=lambda e: e.name)
def test_every_promise_holds_and_is_the_only_one_that_does(estimator: kb.Estimator) -> None:
    assert list(broken_promises(estimator)) == []


@pytest.mark.parametrize("estimator", SIMPLE, ids=lambda e: e.name)
@pytest.mark.parametrize("promise", PROMISES)
def test_flipping_any_promise_is_caught(estimator: kb.Estimator, promise: str) -> None:
    kept = getattr(estimator, promise)
    for level in LEVELS:
        for other in (None, *NAMED):
            if other is not kept[level] and not (promise == "value_of" and other is kb.STATEWISE_REVERSE_KL):
                assert not holds(promise, estimator, level, other), (level, other)
    false = ByLevel(**{**kept, "token": kb.FORWARD_KL if kept.token is not kb.FORWARD_KL else None})
    assert (promise, "token") in list(broken_promises(replace(estimator, **{promise: false})))


@pytest.mark.parametrize("estimator", SIMPLE, ids=lambda e: e.name)
def test_flipping_the_sign_promise_is_caught(estimator: kb.Estimator) -> None:
    assert ("nonnegative", "token") in list(broken_promises(replace(estimator, nonnegative=not estimator.nonnegative)))


@settings(max_examples=25, deadline=None)
@given(pair=logit_pairs())
@pytest.mark.parametrize(
    "one",
    [
        pytest.param(b, marks=pytest.mark.slow if b.name in ("jax", "array-api-strict") else (), id=b.name)
        for b in BACKENDS
    ],
)
def test_value_promises_hold_on_drawn_worlds(one: Backend, pair: tuple[np.ndarray, np.ndarray, int]) -> None:
    at = world(*pair, array=one.array)
    exact = {target: float(host(target.exact(at))) for target in TARGETS}
    for estimator in SIMPLE:
        for level in LEVELS:
            target = estimator.value_of[level]
            if target is not None:
                got = float(host(at.value(estimator, level)))
                assert got == pytest.approx(exact[target], rel=1e-10, abs=1e-12), (estimator.name, level)


@settings(max_examples=25, deadline=None)
@given(pair=logit_pairs())
def test_divergences_obey_their_inequalities(pair: tuple[np.ndarray, np.ndarray, int]) -> None:
    """Pinsker, Bretagnolle-Huber, KL ≤ log(1 + χ²(q‖p)), JS ≤ log 2, H² ≤ TV ≤ H√(2 − H²)."""
    at = world(*pair)
    kl, tv, js, h2, chi2 = (
        float(TARGETS[name].exact(at))
        for name in ("reverse_kl", "total_variation", "jensen_shannon", "squared_hellinger", "neyman_chi2")
    )
    assert tv**2 <= kl / 2 + 1e-14  # the KL itself is rounded at 1e-16
    assert tv <= np.sqrt(1 - np.exp(-kl)) + 1e-7
    assert kl <= np.log1p(chi2) + 1e-12
    assert js <= np.log(2) + 1e-12
    assert h2 - 1e-12 <= tv <= np.sqrt(h2 * (2 - h2)) + 1e-7


def test_fitted_estimators_declare_what_their_parts_are() -> None:
    for estimator in (kb.ControlVariate("fit"), kb.RAO_BLACKWELL_CONTROLLED):
        assert estimator.value_of == kb.K1.value_of
        assert not estimator.nonnegative
