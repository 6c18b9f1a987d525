"""Moments, tails and intervals against other libraries and against themselves, merged."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from arviz_stats.base import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kullback.estimation.intervals import skewed_interval, t_quantile
from kullback.estimation.means import Share, share_by_group
from kullback.estimation.moments import KeyedMoments, Moments
from kullback.estimation.tails import Tail, pareto_shape


def table(rows: np.ndarray, cells: int = 7) -> Moments:
    return Moments.of(np.arange(len(rows)) % cells, rows, cells)


def arrays(moments: Moments) -> tuple[np.ndarray, ...]:
    return moments.count, moments.mean, moments.comoment, moments.third


def close(a: Moments, b: Moments, rtol: float = 1e-10) -> None:
    for got, want in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-9 * max(1.0, float(np.abs(want).max(initial=0))))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 40), cut=st.integers(0, 40), shift=st.sampled_from([0.0, 1e4]), seed=st.integers(0, 99))
def test_merged_moments_are_those_of_all_rows(n: int, cut: int, shift: float, seed: int) -> None:
    rows = shift + np.random.default_rng(seed).exponential(size=(n, 3)) ** 2
    cut = min(cut, n)
    whole = table(rows)
    parts = table(rows[:cut]) + table(rows[cut:]).rolled(cut)
    close(parts, whole)
    total = whole.total()
    if n:
        d = rows - rows.mean(axis=0)
        np.testing.assert_allclose(total.mean[0], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(total.comoment[0], np.einsum("ni,nj->ij", d, d), rtol=1e-8, atol=1e-7)
        np.testing.assert_allclose(total.third[0], np.einsum("ni,nj,nk->ijk", d, d, d), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("cells", [1, 2, 3, 8, 13])
def test_leave_one_out_is_the_total_of_the_others(cells: int) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    rows[3] *= 1e8  # a heavy row must not leave its rounding behind in the others
    whole = table(rows, cells)
    left_out = whole.leave_one_out()
    for cell in range(cells):
        others = rows[np.arange(40) % cells != cell]
        want = Moments.of(np.zeros(len(others), dtype=int), others, 1)
        close(left_out[[cell]], want)


def test_sums_along_a_direction() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 3)) + 5
    direction = np.array([1.0, -2.0, 0.5])
    x = rows @ direction
    for got, power in zip(table(rows, 1).along(direction[None]), (1, 2, 3), strict=True):
        assert got[0] == pytest.approx(np.sum(x**power), rel=1e-9)


def test_more_keys_than_the_limit_share_cells_whatever_the_order() -> None:
    rows = np.random.default_rng(2).normal(size=(200, 2))
    keys = [f"prompt {i % 50}" for i in range(200)]
    whole = KeyedMoments.of(keys, rows, limit=16)
    parts = KeyedMoments.of(keys[:70], rows[:70], 16) + KeyedMoments.of(keys[70:], rows[70:], 16)
    assert whole.hashed
    assert parts.hashed
    assert len(whole.keys) == 16
    close(parts.cells, whole.cells)
    assert whole.cells.count.sum() == 200


@pytest.mark.parametrize("n", [30, 200, 226, 1000, 20_000])
@pytest.mark.parametrize("shape", [0.2, 0.6, 0.9, 1.4])
def test_khat_is_arviz_khat(n: int, shape: float) -> None:
    log_weights = -shape * np.log(np.random.default_rng(n).uniform(size=n))
    # arviz takes log-likelihoods, the negated log-weights.
    assert Tail.of(log_weights).khat() == pytest.approx(float(array_stats.psislw(-log_weights)[1]), rel=1e-9)
    mixed = Tail.of(log_weights[: n // 3]) + Tail.of(log_weights[n // 3 :])
    assert mixed.khat() == Tail.of(log_weights).khat()


def test_khat_finds_the_shape_of_a_pareto_tail() -> None:
    log_weights = -0.9 * np.log(np.random.default_rng(0).uniform(size=500_000))
    assert Tail.of(log_weights).khat() == pytest.approx(0.9, abs=0.05)
    assert pareto_shape(np.random.default_rng(0).exponential(size=5000)) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("values", [np.zeros(1000), np.arange(20.0), np.repeat(np.arange(6.0), 100), np.empty(0)])
def test_too_little_or_too_discrete_a_tail_is_not_judged(values: np.ndarray) -> None:
    assert np.isnan(Tail.of(values).khat())


def test_tails_do_not_grow() -> None:
    tail = sum((Tail.of(np.random.default_rng(i).normal(size=10_000)) for i in range(5)), Tail.of(np.empty(0)))
    assert tail.count == 50_000
    assert tail.largest.size == 4096


def test_t_quantiles() -> None:
    assert t_quantile(0.975, 1) == pytest.approx(12.7062, abs=1e-4)
    assert t_quantile(0.975, 1e9) == pytest.approx(1.959964, abs=1e-6)


def test_a_symmetric_interval_is_students_and_skewness_moves_it_up() -> None:
    low, high = skewed_interval(1.0, 0.1, 0.0, 30)
    assert (low + high) / 2 == pytest.approx(1.0)
    assert high - 1.0 == pytest.approx(0.1 * t_quantile(0.975, 29))
    skewed_low, skewed_high = skewed_interval(1.0, 0.1, 3.0, 30)
    assert skewed_low > low
    assert skewed_high > high


def test_the_transformation_is_undone() -> None:
    n, skewness = 50, 2.0
    low, high = skewed_interval(0.0, 1.0, skewness, n)
    for bound, probability in ((-low, 0.975), (-high, 0.025)):
        g = bound + skewness * (bound**2 / 3 + 1 / 6) / n**0.5 + skewness**2 * bound**3 / (27 * n)
        assert g == pytest.approx(t_quantile(probability, n - 1), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.02, 0.9437, 1.0])
@pytest.mark.parametrize("stderr", [0.0, 1e-3, 0.08])
@pytest.mark.parametrize("clusters", [2, 3, 40])
def test_the_interval_of_a_share_holds_it_and_stays_a_share(value: float, stderr: float, clusters: int) -> None:
    for level in (0.5, 0.95, 0.999):
        low, high = Share(value, stderr, 3.0, clusters).interval(level)
        assert 0 <= low <= value <= high <= 1
        assert low < high


def test_the_interval_of_a_share_covers_it() -> None:
    """Clusters of 20 tokens alike: as wide as 30 tokens are worth, by the binomial law of the clusters."""
    for share in (0.5, 0.9, 0.97):
        covered = 0.0
        for agreeing in range(31):
            flags = [np.full(20, i < agreeing) for i in range(30)]
            low, high = share_by_group(flags, range(30)).interval()
            chance = comb(30, agreeing) * share**agreeing * (1 - share) ** (30 - agreeing)
            covered += chance * (low <= share <= high)
        assert covered > 0.93, share
