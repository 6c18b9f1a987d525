"""Warnings name the rows behind them, and say where there is no verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.estimation.tails import Tail


def ordinary(n: int, seed: int = 0, time: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows of an i.i.d. model of 20 words, log q and log p of words drawn from q."""
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.full(20, 2.0))
    p = q * np.exp(0.2 * rng.normal(size=20))
    p /= p.sum()
    words = rng.choice(20, size=(n, time), p=q)
    return np.log(q)[words], np.log(p)[words]


@pytest.mark.parametrize("estimator", ["k1", "k3", "pearson_chi2"])
@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_influence_is_what_the_value_would_be_without_the_row(estimator: str, unit: str) -> None:
    q, p = ordinary(60)
    mask = np.arange(6) < np.random.default_rng(1).integers(0, 7, size=(60, 1))
    whole = kb.estimate(q, p, mask, estimator=estimator, unit=unit)
    changes = []
    for row in range(60):
        without = np.delete(np.arange(60), row)
        rest = kb.estimate(q[without], p[without], mask[without], estimator=estimator, unit=unit)
        changes.append(whole.value - rest.value if mask[row].any() else 0.0)
    most = np.argsort(-np.abs(changes))
    assert whole.influential[0].row == most[0]
    for one in whole.influential:
        assert one.change == pytest.approx(changes[one.row], rel=1e-9)


def test_rows_are_numbered_across_batches_and_empty_rows() -> None:
    q, p = ordinary(40)
    p[33, 4] -= 3.0
    mask = np.ones_like(q, dtype=bool)
    mask[[2, 20]] = False
    accumulator = kb.Accumulator(estimator="k1")
    for part in (slice(0, 7), slice(7, 30), slice(30, 40)):
        accumulator.update({"logprobs": q[part], "ref_logprobs": p[part], "mask": mask[part]})
    first = accumulator.result().influential[0]
    assert (first.row, first.token) == (33, 4)
    assert accumulator.result().influential == kb.estimate(q, p, mask, estimator="k1").influential


def peaked(n: int, seed: int = 0, time: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a model that is sure of most words, as language models are, and its reference close by."""
    rng = np.random.default_rng(seed)
    logits = np.concatenate([[4.0, 2.0], np.zeros(50)])
    q = np.exp(logits) / np.exp(logits).sum()
    p = q * np.exp(0.1 * rng.normal(size=52))
    p /= p.sum()
    words = rng.choice(52, size=(n, time), p=q)
    return np.log(q)[words], np.log(p)[words]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@pytest.mark.parametrize("seed", range(5))
def test_two_misaligned_rows_are_found_by_reading_the_warnings(estimator: str, seed: int) -> None:
    q, p = peaked(120, seed)
    clean = kb.estimate(q, p, estimator=estimator)
    assert not any("apart" in warning for warning in clean.warnings)
    for row in (17, 63):
        p[row] = np.log(0.02) + np.zeros(12)  # the reference of other tokens: each about as unlikely
    found = kb.estimate(q, p, estimator=estimator)
    assert any(warning.startswith("row(s) 17, 63 stand apart") for warning in found.warnings)
    assert {one.row for one in found.influential[:2]} == {17, 63}


def test_a_heavy_weight_is_named_by_its_row() -> None:
    rng = np.random.default_rng(0)
    q, p = ordinary(400)
    log_weight = 2.0 * rng.exponential(size=(400, 1))
    log_weight[123] = 60.0
    behavior = np.minimum(q - log_weight / 6, 0.0)
    found = kb.estimate(q, p, estimator="k1", behavior_logprobs=behavior)
    assert any("importance weight" in w and "row 123" in w for w in found.warnings)


def drawn_off_policy(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log q, log p and log μ of tokens that μ drew, 8 a row, from 20 words."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=20)
    laws = [logits + 0.15 * rng.normal(size=20) for _ in range(3)]
    q, p, mu = (law - np.log(np.exp(law).sum()) for law in laws)
    words = rng.choice(20, size=(rows, 8), p=np.exp(mu))
    return q[words], p[words], mu[words]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda mu: mu * 0.8,  # log-probs over the temperature, without the normaliser
        lambda mu: np.minimum(mu + 0.05, 0.0),
        lambda mu: 1.2 * mu,
        lambda mu: np.full_like(mu, -np.log(20)),  # of a tail so heavy that no interval holds: Markov's inequality does
    ],
)
def test_weights_whose_mean_is_not_1_accuse_the_sampler(wrong) -> None:
    q, p, mu = drawn_off_policy(200, seed=3)
    found = kb.estimate(q, p, estimator="k1", behavior_logprobs=wrong(mu))
    told = [warning for warning in found.warnings if "weights q/μ average" in warning]
    weights = np.exp((q - wrong(mu)).sum(axis=1))
    assert len(told) == 1
    assert f"average {weights.mean():.3g} where 1 is expected" in told[0]
    assert not any("r = p/q, averages" in warning for warning in found.warnings)  # its consequence


def test_right_weights_are_hardly_ever_accused() -> None:
    """The interval is one of 99.9%, and the weights' ESS is about two thirds."""
    accused = 0
    for seed in range(200):
        q, p, mu = drawn_off_policy(64, seed)
        found = kb.estimate(q, p, estimator="k1", behavior_logprobs=mu)
        accused += any("weights q/μ average" in warning for warning in found.warnings)
    assert accused <= 2


def test_the_mean_weight_is_that_of_all_parts() -> None:
    q, p, mu = drawn_off_policy(300, seed=5)
    parts = kb.Accumulator(estimator="k1")
    for rows in (slice(0, 7), slice(7, 200), slice(200, 300)):
        part = {"logprobs": q[rows], "ref_logprobs": p[rows], "behavior_logprobs": 0.8 * mu[rows]}
        parts.merge(kb.Accumulator(estimator="k1").update(part))
    whole = kb.estimate(q, p, estimator="k1", behavior_logprobs=0.8 * mu)
    assert [w for w in parts.result().warnings if "q/μ" in w] == [w for w in whole.warnings if "q/μ" in w] != []


def test_a_cap_moves_the_mean_weight_and_is_said_as_a_cap() -> None:
    q, p, mu = drawn_off_policy(200, seed=3)
    found = kb.estimate(q, p, estimator="k1", behavior_logprobs=0.8 * mu, truncate=0.5)
    assert not any("q/μ average" in warning for warning in found.warnings)
    assert any("weights above 0.5 count as 0.5" in warning for warning in found.warnings)


def test_draws_that_are_all_alike_leave_an_error_open() -> None:
    """One first token drawn every time: k3 1.7e-7 each, whatever the tokens that were never drawn carry."""
    q, p = np.full((64, 1), -0.001), np.full((64, 1), -0.0015828)
    found = kb.estimate(q, p, estimator="k3")
    assert np.isnan(found.stderr)
    assert np.isnan(found.interval()).all()
    assert "all 64 draws gave the same number" in found.warnings[0]
    assert "0.047" in found.warnings[0]
    exact = kb.estimate(q, p, token_kl=np.full((64, 1), 2.6e-4), estimator="rao_blackwell")
    assert (exact.value, exact.stderr) == (pytest.approx(2.6e-4), 0.0)


def test_one_row_has_no_error_and_accuses_nobody() -> None:
    found = kb.estimate([[-0.5, -0.2]], [[-0.501, -0.201]], estimator="k3")
    assert found.value == pytest.approx(2 * (np.expm1(-0.001) + 0.001), rel=1e-9)
    assert np.isnan(found.stderr)
    assert found.warnings == ("one sequence: no standard error can be given",)
    assert "nan" not in str(found)


@pytest.mark.parametrize("rows", [2, 8, 24, 29])
def test_too_few_rows_for_a_verdict_on_tails_are_said(rows: int) -> None:
    q, p = ordinary(rows)
    found = kb.estimate(q, p, estimator="k1", level="sequence")
    assert np.isnan(found.khat)
    assert any(f"rests on {rows} sequences" in warning for warning in found.warnings)


def test_thirty_rows_are_enough_for_a_verdict() -> None:
    q, p = ordinary(30)
    found = kb.estimate(q, p, estimator="k1", level="sequence")
    assert np.isfinite(found.khat)
    assert not any("rests on" in warning for warning in found.warnings)


@pytest.mark.parametrize("rows", [30, 40, 64])
def test_harmless_tails_are_hardly_ever_accused(rows: int) -> None:
    rng = np.random.default_rng(rows)
    accused = np.mean([Tail.of(np.log(rng.exponential(size=rows))).heavy for _ in range(600)])
    assert accused <= 0.04


def test_a_heavy_tail_is_seen_where_there_are_rows_enough() -> None:
    rng = np.random.default_rng(0)
    seen = np.mean([Tail.of(1.5 * rng.exponential(size=256)).heavy for _ in range(200)])
    assert seen > 0.95


@pytest.mark.parametrize("positive", [40, 60, 400])
def test_a_heavy_tail_is_seen_among_summands_that_are_mostly_negative(positive: int) -> None:
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(50):
        summands = np.concatenate([1.5 * rng.exponential(size=positive), np.full(512 - positive, -np.inf)])
        seen += Tail.of(summands).heavy
    assert seen > 40


def test_few_prompts_are_said_and_twenty_are_not() -> None:
    for prompts, said in ((4, True), (19, True), (20, False)):
        q, p = ordinary(8 * prompts)
        found = kb.estimate(q, p, estimator="k1", groups=np.arange(8 * prompts) % prompts)
        assert any(f"rests on {prompts} prompts" in warning for warning in found.warnings) is said


def test_a_value_that_is_not_finite_never_comes_alone() -> None:
    q, p = ordinary(40)
    q[5, 2] = -900.0
    for estimator in kb.ESTIMATORS:
        if estimator.reads == "log_ratio" and estimator.link is None:
            found = kb.estimate(q, p, estimator=estimator)
            assert np.isfinite(found.value) or found.warnings, estimator.name


def test_unequal_prompts_count_as_fewer() -> None:
    sizes = np.array([2] * 12 + [24] * 12)
    q, p = ordinary(int(sizes.sum()))
    found = kb.estimate(q, p, estimator="k1", groups=np.repeat(np.arange(24), sizes))
    assert any("rests on 24 prompts, worth 14 by" in warning for warning in found.warnings)


def test_a_skewed_sample_has_no_rows_apart() -> None:
    """Forty gamma summands of shape ½: the largest move the mean, and none of them is anybody's mistake."""
    rng = np.random.default_rng(0)
    accused = 0
    for _ in range(60):
        ell = 0.3 * rng.gamma(0.5, 2.0, size=(40, 1))
        found = kb.estimate(np.full_like(ell, -30.0), np.full_like(ell, -30.0) - ell, estimator="k1")
        accused += any("apart" in warning for warning in found.warnings)
    assert accused <= 2


def test_rounding_is_no_part_of_the_reference_that_was_never_sampled(tmp_path: Path) -> None:
    """KL(reference‖policy) from the policy's tokens: the ratio of sampler and policy is 1, but for 1e-16."""
    rng = np.random.default_rng(0)
    q = -rng.exponential(size=(300, 300)).astype(np.float32)
    p = np.minimum(q + 0.05 * rng.normal(size=q.shape).astype(np.float32), 0)
    np.savez(tmp_path / "rows.npz", logprobs=q, ref_logprobs=p)
    forward, _, backward, _ = kb.estimate_files(tmp_path / "rows.npz").estimates
    assert any("never sampled" in sentence for sentence in forward.warnings)
    assert not any("never sampled" in sentence for sentence in backward.warnings)
