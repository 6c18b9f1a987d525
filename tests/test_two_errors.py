"""The error for these prompts beside the error for prompts of a population, held against sums written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

import kullback as kb


def draws(sizes: list[int], seed: int = 0, time: int = 5) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sequences of as many prompts as there are sizes, of unequal lengths, KLs that differ from prompt to prompt."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    scale = np.exp(rng.normal(size=len(sizes)))[groups][:, None]
    q = -rng.exponential(size=(len(groups), time))
    p = np.minimum(q - 0.1 * scale * rng.normal(size=q.shape) - 0.05 * scale, 0.0)
    mask = np.arange(time) < rng.integers(1, time + 1, size=(len(groups), 1))
    return {"logprobs": q, "ref_logprobs": p, "mask": mask}, groups


def summands(batch: dict[str, np.ndarray], unit: str) -> tuple[np.ndarray, np.ndarray]:
    top = np.where(batch["mask"], batch["logprobs"] - batch["ref_logprobs"], 0.0).sum(axis=1)
    return top, (batch["mask"].sum(axis=1).astype(float) if unit == "token" else np.ones(len(top)))


@pytest.mark.parametrize("unit", ["sequence", "token"])
@given(sizes=st.lists(st.integers(2, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_error_given_these_prompts_is_the_stratified_one(unit: Any, sizes: list[int], seed: int) -> None:
    batch, groups = draws(sizes, seed)
    found = kb.estimate(**batch, estimator="k1", unit=unit, groups=groups).given_prompts
    top, bottom = summands(batch, unit)
    e = top - top.sum() / bottom.sum() * bottom
    parts = np.array([np.var(e[groups == g], ddof=1) * n for g, n in enumerate(sizes)])
    assert found is not None
    assert found.stderr == pytest.approx(np.sqrt(parts.sum()) / bottom.sum(), rel=1e-9)
    freedom = parts.sum() ** 2 / np.sum(parts**2 / (np.array(sizes) - 1))
    assert found.freedom == pytest.approx(freedom, rel=1e-9)


def test_samples_of_one_prompt_have_one_error() -> None:
    batch, groups = draws([40])
    found = kb.estimate(**batch, estimator="k1", groups=groups)
    assert found.given_prompts is not None
    assert found.given_prompts.stderr == pytest.approx(found.stderr, rel=1e-12)
    assert found.given_prompts.freedom == pytest.approx(39)


def test_there_is_no_error_for_these_prompts_with_one_sample_of_each() -> None:
    batch, groups = draws([1] * 8)
    assert kb.estimate(**batch, estimator="k1", groups=groups).given_prompts is None
    assert kb.estimate(**batch, estimator="k1").given_prompts is None


def test_prompts_with_one_sample_are_one_stratum_beside_the_others() -> None:
    batch, groups = draws([3, 1, 4, 1, 1])
    found = kb.estimate(**batch, estimator="k1", groups=groups).given_prompts
    top, _ = summands(batch, "sequence")
    strata = [top[groups == 0], top[groups == 2], top[np.isin(groups, [1, 3, 4])]]
    want = np.sqrt(sum(len(s) * np.var(s, ddof=1) for s in strata)) / len(top)
    assert found is not None
    assert found.stderr == pytest.approx(want, rel=1e-9)


def test_fixed_prompts_are_known_better_than_a_population_of_them() -> None:
    batch, groups = draws([16] * 20)
    found = kb.estimate(**batch, estimator="k1", groups=groups)
    assert found.given_prompts is not None
    assert found.given_prompts.stderr < 0.5 * found.stderr
    low, high = found.given_prompts.interval()
    assert found.interval()[0] < low < found.value < high < found.interval()[1]
    record = found.to_dict()
    assert (record["low_given_prompts"], record["high_given_prompts"]) == (low, high)


def test_a_merged_accumulator_has_both_errors_of_the_whole() -> None:
    batch, groups = draws([4] * 12)
    whole = kb.estimate(**batch, estimator="k3", groups=groups)
    parts = kb.Accumulator(estimator="k3")
    for part in np.array_split(np.random.default_rng(1).permutation(len(groups)), 5):
        rows = {name: array[part] for name, array in batch.items()}
        parts.merge(kb.Accumulator(estimator="k3").update({**rows, "groups": groups[part]}))
    merged = parts.result()
    assert merged.given_prompts is not None
    assert whole.given_prompts is not None
    assert merged.given_prompts.stderr == pytest.approx(whole.given_prompts.stderr, rel=1e-10)
    assert merged.given_prompts.interval() == pytest.approx(whole.given_prompts.interval(), rel=1e-9)


def test_equal_clusters_have_the_textbook_interval_where_nothing_is_skewed() -> None:
    """Symmetric summands around a value near 0: no correction for skewness, and no interval of a logarithm."""
    half = np.random.default_rng(0).exponential(size=(50, 1))
    ell = np.concatenate([half, -half]) + 0.001
    q = np.full_like(ell, -60.0)
    found = kb.estimate(q, q - ell, estimator="k1")
    width = student.ppf(0.975, 99) * found.stderr
    assert found.interval() == pytest.approx((found.value - width, found.value + width), rel=1e-6)


def test_what_cannot_be_negative_has_no_negative_bound() -> None:
    kls = np.array([[0.0], [0.5]] * 4)
    found = kb.estimate(np.full_like(kls, -1.0), np.full_like(kls, -1.1), token_kl=kls, estimator="rao_blackwell")
    assert found.interval(0.9999)[0] == 0.0


@pytest.mark.parametrize("rows", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_a_fit_from_few_rows_is_hardly_worse_than_none(rows: int) -> None:
    """Mean squared errors over 400 batches of an ordinary world, against the unfitted form of each member."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=(73, 9))
    trees = (kb.oracle.TreeLM(base + 0.4 * rng.normal(size=base.shape), eos=0, horizon=3) for _ in range(2))
    world = kb.oracle.World(*trees)
    truth = float(world.exact(kb.REVERSE_KL))
    names = ("k1", "control_variate", "rao_blackwell", "rao_blackwell_controlled")
    errors = {name: [] for name in names}
    for _ in range(400):
        batch = world.sample(rng, rows)
        for name in names:
            errors[name].append(kb.Accumulator(estimator=name).update(batch).result().value - truth)
    mse = {name: float(np.mean(np.square(values))) for name, values in errors.items()}
    assert mse["control_variate"] < 1.05 * mse["k1"]
    assert mse["rao_blackwell_controlled"] < 1.05 * mse["rao_blackwell"]


def test_a_control_that_is_rounding_is_left_out() -> None:
    """p a constant times q: r − 1 is that constant but for the rounding of float32, and says nothing."""
    q = np.log(np.random.default_rng(0).dirichlet(np.ones(8), size=(64, 4)))[..., 0].astype(np.float32)
    p = (q - 3.0 + 1e-6 * np.random.default_rng(1).normal(size=q.shape)).astype(np.float32)
    mass = np.full_like(q, np.exp(-3.0))
    k1 = kb.estimate(q, p, ref_mass=mass, estimator="k1")
    fitted = kb.estimate(q, p, ref_mass=mass, estimator="control_variate")
    assert fitted.coefficients == {"ratio": 0.0}
    assert fitted.value == k1.value
