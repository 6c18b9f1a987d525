"""Estimators: accuracy against mpmath, backends, dtypes, overflow."""

from __future__ import annotations

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import torch
from conftest import Backend, host

import kullback as kb
from kullback.errors import InputError, NameUnknownError


def clipped(r: mp.mpf) -> mp.mpf:
    """ℓ within ±20."""
    return min(max(-mp.log(r), -20), 20)


R = {  # per-sample formulas as functions of r = p/q, written independently for many digits
    "k1": lambda r: -mp.log(r),
    "k2": lambda r: mp.log(r) ** 2 / 2,
    "k3": lambda r: r - 1 - mp.log(r),
    "forward_k1": lambda r: r * mp.log(r),
    "forward_k3": lambda r: r * mp.log(r) - (r - 1),
    "jeffreys": lambda r: (r - 1) * mp.log(r),
    "pearson_chi2": lambda r: (r - 1) ** 2,
    "neyman_chi2": lambda r: (r - 1) ** 2 / r,
    "squared_hellinger": lambda r: (mp.sqrt(r) - 1) ** 2 / 2,
    "jensen_shannon": lambda r: (r * mp.log(2 * r / (1 + r)) + mp.log(2 / (1 + r))) / 2,
    "total_variation": lambda r: max(1 - r, 0),
    "total_variation_abs": lambda r: abs(r - 1) / 2,
    "alpha_0.5": lambda r: (mp.sqrt(r) - (r - 1) / 2 - 1) / (mp.mpf(-1) / 4),
    "skew_0.1": lambda r: -mp.log(1 - mp.mpf(0.1) + mp.mpf(0.1) * r),
    "renyi_2": lambda r: 1 / r,
    "k1_clamped_10": lambda r: min(max(-mp.log(r), -10), 10),
    "k3_clamped_20_10": lambda r: min(mp.exp(-clipped(r)) - 1 + clipped(r), 10),
}
NOT_A_FUNCTION_OF_THE_RATIO = {
    "control_variate": "fitted on a batch",
    "rao_blackwell": "reads the token KL",
    "rao_blackwell_controlled": "reads the token KL, and is fitted on a batch",
}
LIMITS = {  # at ℓ = ∞, where r = 0, and at ℓ = −∞, where r = ∞
    "k1": (np.inf, -np.inf),
    "k2": (np.inf, np.inf),
    "k3": (np.inf, np.inf),
    "forward_k1": (0, np.inf),
    "forward_k3": (1, np.inf),
    "jeffreys": (np.inf, np.inf),
    "pearson_chi2": (1, np.inf),
    "neyman_chi2": (np.inf, np.inf),
    "squared_hellinger": (0.5, np.inf),
    "jensen_shannon": (np.log(2) / 2, np.inf),
    "total_variation": (1, 0),
    "total_variation_abs": (0.5, np.inf),
    "alpha_0.5": (2, np.inf),
    "skew_0.1": (-np.log(0.9), -np.inf),
    "renyi_2": (np.inf, 0),
    "k1_clamped_10": (10, -10),
    "k3_clamped_20_10": (10, 10),
}
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}
RANGE = {np.float32: (1.1e-19, 88.0), np.float64: (1.5e-154, 709.0)}  # ℓ² underflows … e^|ℓ| overflows
FUNCTIONS = [e for e in kb.ESTIMATORS if e.name not in NOT_A_FUNCTION_OF_THE_RATIO]


def test_every_estimator_has_a_reference_or_a_reason() -> None:
    assert set(R) | set(NOT_A_FUNCTION_OF_THE_RATIO) == set(kb.ESTIMATORS.names)
    assert set(R) == set(LIMITS) == {e.name for e in FUNCTIONS}
    for name in NOT_A_FUNCTION_OF_THE_RATIO:
        assert kb.ESTIMATORS[name].controls or kb.ESTIMATORS[name].reads != "log_ratio"


def grid(dtype: type) -> np.ndarray:
    low, high = RANGE[dtype]
    sizes = np.concatenate([np.geomspace(low, high, 200), 1 + np.array([-1e-6, -1e-7, 0, 1e-7, 1e-6]), [2.0, 0.5]])
    return np.concatenate([sizes, -sizes]).astype(dtype)


@cache
def truth(name: str, dtype: type) -> list[mp.mpf]:
    with mp.workdps(400):
        return [R[name](mp.exp(-mp.mpf(log_ratio))) for log_ratio in grid(dtype).tolist()]


@pytest.mark.parametrize("estimator", FUNCTIONS, ids=lambda e: e.name)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_digit_is_right_from_underflow_to_overflow(
    estimator: kb.Estimator, dtype: type, backend: Backend
) -> None:
    x = grid(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        got = host(estimator(backend.array(x)))
    assert got.dtype == dtype
    assert not np.isnan(got).any()
    if estimator.nonnegative:
        assert (got >= 0).all()
    limits = np.finfo(dtype)
    with mp.workdps(400):
        for value, log_ratio, true in zip(got.tolist(), x.tolist(), truth(estimator.name, dtype), strict=True):
            # JAX flushes subnormal numbers to zero, so the last factors before underflow are left out.
            if 1e5 * limits.tiny < abs(true) < limits.max:
                assert abs(mp.mpf(value) - true) <= TOLERANCE[dtype] * abs(true), (log_ratio, value)


@pytest.mark.parametrize("size", [1e-7, 1e-5, 3e-4, 1e-2])
def test_peers_lose_the_digits_that_k3_keeps(size: float) -> None:
    x = np.float32(size)
    with mp.workdps(60):
        true = float(mp.exp(-mp.mpf(float(x))) - 1 + mp.mpf(float(x)))
    peer = float(np.exp(-x) - np.float32(1) + x)
    assert abs(float(kb.K3(x)) - true) <= 1e-6 * true
    if size <= 3e-4:
        assert abs(peer - true) > 1e-4 * true


@pytest.mark.parametrize("estimator", FUNCTIONS, ids=lambda e: e.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(estimator: kb.Estimator, dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -0.01, 0.0, 0.3, 5.0], dtype=dtype)
    got = estimator(x)
    assert got.dtype == torch.float32
    assert torch.equal(got, estimator(x.float()))
    assert estimator(jnp.asarray(x.float().numpy(), dtype=jnp.bfloat16)).dtype == jnp.float32


def test_overflow_is_inf_with_a_warning_that_names_the_place(backend: Backend) -> None:
    x = np.array([[0.1, -0.2], [0.3, -800.0]])
    if backend.name.startswith("numpy"):
        with pytest.warns(RuntimeWarning, match=r"k3 overflows to inf at 1 log-ratio\(s\), first at index \(1, 1\)"):
            got = kb.K3(backend.array(x))
    else:
        got = kb.K3(backend.array(x))
    assert np.isinf(host(got)).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("estimator", FUNCTIONS, ids=lambda e: e.name)
def test_infinite_log_ratios_have_their_limits(estimator: kb.Estimator, backend: Backend) -> None:
    got = host(estimator(backend.array(np.array([np.inf, -np.inf]))))
    np.testing.assert_allclose(got, LIMITS[estimator.name], rtol=1e-14)


@pytest.mark.parametrize("estimator", FUNCTIONS, ids=lambda e: e.name)
def test_gradients_are_finite_and_the_same_in_torch_and_jax(estimator: kb.Estimator) -> None:
    x = np.array([-3.0, -1.0, -0.5, -1e-9, 1e-9, 0.4, 1.0, 20.0, 300.0])
    leaf = torch.tensor(x, requires_grad=True)
    estimator(leaf).sum().backward()
    by_jax = np.asarray(jax.grad(lambda y: estimator(y).sum())(jnp.asarray(x)))
    assert np.isfinite(leaf.grad.numpy()).all()
    np.testing.assert_allclose(leaf.grad.numpy(), by_jax, rtol=1e-12, atol=1e-15)
    step = 1e-6 * np.maximum(np.abs(x), 1e-3)
    smooth = np.abs(x) > 1e-3
    slope = (estimator.fn(x + step) - estimator.fn(x - step)) / (2 * step)
    np.testing.assert_allclose(leaf.grad.numpy()[smooth], slope[smooth], rtol=1e-5, atol=1e-8)


def test_compiled_and_vmapped_functions_agree() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert torch.allclose(torch.func.vmap(kb.K3)(x), kb.K3(x))
    assert np.allclose(jax.jit(kb.K3.fn)(jnp.asarray(x.numpy())), kb.K3(x).numpy())


@pytest.mark.parametrize("coefficient", [0.0, 0.25, 1.0, -0.5])
def test_control_variate_is_k1_plus_lambda_times_r_minus_1(coefficient: float) -> None:
    x = np.linspace(-2, 2, 41)
    np.testing.assert_allclose(kb.ControlVariate(coefficient)(x), x + coefficient * (np.exp(-x) - 1), atol=1e-14)


def test_optimal_coefficient_is_jeffreys_over_chi2() -> None:
    # For a Gaussian shift μ = 1, λ* = μ²/(e^{μ²} − 1) = 0.581977
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    log_ratio = 0.5 - nodes  # ℓ of q = N(0,1) against p = N(1,1) at x
    weights = weights / weights.sum()
    jeffreys = weights @ kb.ESTIMATORS["jeffreys"](log_ratio)
    chi2 = weights @ kb.ESTIMATORS["pearson_chi2"](log_ratio)
    assert jeffreys / chi2 == pytest.approx(0.5819767068693265, rel=1e-9)
    draws = 0.5 - np.random.default_rng(0).normal(size=400_000)
    assert kb.optimal_coefficient(draws) == pytest.approx(0.582, abs=0.02)
    with pytest.raises(InputError, match="every log-ratio is 0"):
        kb.optimal_coefficient(np.zeros(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kb.K3(np.array([1, 2])), "int64, but floating-point"),
        (lambda: kb.ControlVariate("best"), "a finite number or 'fit'"),
        (lambda: kb.ControlVariate("fit")(np.ones(2)), "pass it to kullback.estimate"),
        (lambda: kb.Alpha(1.0), "use k3"),
        (lambda: kb.Renyi(1.0), "positive and not 1"),
        (lambda: kb.Skew(1.5), "strictly between 0 and 1"),
        (lambda: kb.K3.value_of["word"], "the cases 'token' and 'sequence'"),
        (lambda: kb.ESTIMATORS["k4"], "there is no 'k4'; choose one of k1, k2, k3"),
    ],
)
def test_wrong_options_say_what_to_do(call: object, words: str) -> None:
    with pytest.raises((InputError, NameUnknownError)) as error:
        call()  # type: ignore[operator]
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "slope"),
    [("k1", 0), ("k3", 1), ("total_variation", 0), ("squared_hellinger", 0.5), ("jensen_shannon", np.log(2) / 2)],
)
def test_slope_is_what_a_mean_lacks_where_the_policy_has_no_mass(name: str, slope: float) -> None:
    assert kb.ESTIMATORS[name].slope == pytest.approx(slope, abs=1e-9)


def test_a_family_finds_members_by_name_and_place() -> None:
    assert kb.ESTIMATORS["k1"] is kb.ESTIMATORS[0] is kb.K1
    assert kb.ESTIMATORS[:3] == (kb.K1, kb.K2, kb.K3)
    assert len(set(kb.ESTIMATORS.names)) == len(kb.ESTIMATORS)
    assert all(e.formula and e.source for e in kb.ESTIMATORS)
