"""The monitor: bounds held exactly where they can be, by simulation where only that can be, and what a run sees."""

from __future__ import annotations

import json
from itertools import product
from math import inf, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.monitoring.confidence import BETS, LowerBound, asymptotic_interval
from kullback.monitoring.detectors import AboveBand, Change
from kullback.monitoring.moments import Moments


@st.composite
def laws(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Values that are not negative, and their probabilities."""
    size = draw(st.integers(2, 3))
    values = np.array(draw(st.lists(st.floats(0, 20), min_size=size, max_size=size)))
    weights = np.array(draw(st.lists(st.floats(0.01, 1), min_size=size, max_size=size)))
    return values, weights / weights.sum()


def paths(law: tuple[np.ndarray, np.ndarray], steps: int) -> list[tuple[np.ndarray, float]]:
    """Every sequence of draws, with its probability."""
    values, probability = law
    picks = product(range(len(values)), repeat=steps)
    return [(values[list(pick)], float(np.prod(probability[list(pick)]))) for pick in picks]


@given(laws(), st.floats(0.1, 10))
def test_bets_against_a_band_that_holds_gain_nothing(law: tuple[np.ndarray, np.ndarray], slack: float) -> None:
    """E Σ_starts Π(1 + λ(Y/c − 1)) ≤ steps, by enumeration, which bounds the average run length (Doob)."""
    mean = float(law[0] @ law[1])
    for steps in (1, 2):
        total = 0.0
        for path, probability in paths(law, steps):
            band = AboveBand(mean + slack, inf)
            for value in path:
                band.update(np.array([value]))
            total += probability * float(np.exp(band.logs).mean())
        assert total <= steps * (1 + 1e-9)


@given(laws(), st.sampled_from([0.1, 1.0, 30.0]))
def test_the_lower_bound_rests_on_supermartingales(law: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    mean = float(law[0] @ law[1])
    expected = np.zeros(BETS.size)
    for path, probability in paths(law, 3):
        bound = LowerBound(scale, 0.05)
        for value in path:
            bound.update(np.array([value]))
        cost = (-np.log1p(-BETS) - BETS) * bound.squares
        expected += probability * np.exp(BETS * (bound.total - 3 * mean) / scale - cost)
        # and the bound is what they say: above the mean only where one of them is above K/α
        wealth = BETS * (bound.total - 3 * mean) / scale - cost
        assert (bound.bound() > mean * (1 + 1e-12)) <= bool((wealth >= log(BETS.size / 0.05) - 1e-9).any())
    assert (expected <= 1 + 1e-9).all()


def test_numbers_in_one_piece_or_in_many_give_one_bound() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    whole, parts = LowerBound(1.0, 0.05), LowerBound(1.0, 0.05)
    whole.update(values)
    for part in np.split(values, [3, 20, 21]):
        parts.update(part)
    assert (parts.bound(), parts.squares) == pytest.approx((whole.bound(), whole.squares), rel=1e-12)
    assert 0 < whole.bound() < 1


def test_the_interval_is_the_papers() -> None:
    values = np.arange(100.0) % 7
    low, high = asymptotic_interval(Moments.of(values), 0.05, tightest_at=100)
    rho2 = (-2 * log(0.05) + log(1 - 2 * log(0.05))) / 100
    half = values.std(ddof=1) * sqrt(2 * (100 * rho2 + 1) / (100**2 * rho2) * log(sqrt(100 * rho2 + 1) / 0.05))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-12)
    assert asymptotic_interval(Moments.of(values[:31]), 0.05) == (-inf, inf)


def test_the_interval_is_tightest_where_it_was_told() -> None:
    moments = Moments(500, 0.0, 499.0)
    widths = {at: asymptotic_interval(moments, 0.01, tightest_at=at)[1] for at in (50, 500, 5000)}
    assert widths[500] == min(widths.values())


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.integers(0, 20))
def test_moments_of_parts_are_those_of_the_whole(values: list[float], cut: int) -> None:
    numbers = np.array(values)
    whole, parts = Moments.of(numbers), Moments.of(numbers[:cut]) + Moments.of(numbers[cut:])
    assert (parts.n, parts.mean) == (whole.n, pytest.approx(whole.mean, abs=1e-9))
    assert parts.squares == pytest.approx(whole.squares, rel=1e-9, abs=1e-6)


def test_a_change_is_found_and_no_change_is_not() -> None:
    rng = np.random.default_rng(1)
    false, delays = 0, []
    for _ in range(20):
        change = Change(1000, 32)
        false += sum(change.update(rng.lognormal(-0.5, 1, 32)) for _ in range(60))
        delays.append(next(step for step in range(200) if change.update(1.5 * rng.lognormal(-0.5, 1, 32))))
    assert false <= 4  # 20 × 60 steps at one in a thousand: 1.2 expected at most
    assert np.median(delays) < 40


def test_a_constant_stream_raises_nothing() -> None:
    change, band = Change(100, 8), AboveBand(1.0, 100)
    assert not any(change.update(np.zeros(8)) or band.update(np.zeros(8)) for _ in range(200))


def batch(rng: np.random.Generator, noise: float, rows: int = 32) -> dict[str, Any]:
    p = -rng.exponential(size=(rows, 6)) - 0.5
    return {"logprobs": np.minimum(p + noise * rng.normal(size=p.shape), 0), "ref_logprobs": p}


def test_metrics_are_the_estimates() -> None:
    rng, monitor = np.random.default_rng(2), kb.KLMonitor()
    data = batch(rng, 0.3)
    groups = np.repeat(np.arange(8), 4)
    data["behavior_logprobs"] = np.minimum(data["logprobs"] + 0.01 * rng.normal(size=(32, 6)), 0)
    monitor.update(**data, groups=groups, step=7)
    metrics = monitor.metrics()
    k3 = kb.estimate(**data, estimator="k3", groups=groups)
    engine = kb.estimate(data["behavior_logprobs"], data["logprobs"], estimator="k3", groups=groups)
    assert metrics["kullback/policy/k3"] == k3.value
    assert metrics["kullback/policy/stderr"] == k3.stderr
    assert (metrics["kullback/policy/low"], metrics["kullback/policy/high"]) == k3.interval()
    assert metrics["kullback/policy/ess"] == k3.ess / 32
    assert metrics["kullback/policy/token"] == kb.estimate(**data, estimator="k3", unit="token", groups=groups).value
    k1 = kb.estimate(**data, estimator="k1", groups=groups).value
    assert metrics["kullback/policy/k1"] == pytest.approx(k1, rel=1e-14)
    assert metrics["kullback/mismatch/k3"] == engine.value
    assert all(isinstance(value, float) for value in metrics.values())


def test_token_kls_are_what_alarms_go_by() -> None:
    data = batch(np.random.default_rng(3), 0.3)
    monitor = kb.KLMonitor()
    monitor.update(**data, token_kl=np.full((32, 6), 0.5), step=0)
    assert monitor.metrics()["kullback/policy/rao_blackwell"] == pytest.approx(3.0)
    assert monitor.metrics()["kullback/policy/token"] == pytest.approx(0.5)


@pytest.mark.parametrize("row", [0, 2])
def test_an_infinite_row_among_finite_ones_of_its_prompt_is_said(row: int) -> None:
    """Wherever it stands: the mean of the prompt is infinite."""
    data = batch(np.random.default_rng(5), 0.2)
    data["ref_logprobs"][row, 1] = -np.inf
    monitor = kb.KLMonitor()
    monitor.update(**data, groups=np.arange(32) // 4, step=0)
    (alarm,) = monitor.close()
    assert (alarm.kind, alarm.value) == ("band", inf)
    assert monitor.metrics()["kullback/policy/k1"] == inf


def run(monitor: kb.KLMonitor, noises: list[float], start: int = 0, seed: int = 4) -> kb.KLMonitor:
    for step, noise in enumerate(noises, start):
        monitor.update(**batch(np.random.default_rng([seed, step]), noise), step=step)
    monitor.close()
    return monitor


def test_each_alarm_names_its_step_and_says_why() -> None:
    monitor = run(kb.KLMonitor(limit=0.5), [0.1] * 8 + [0.9] * 4)
    (changed, *_), (above, *_) = ([a for a in monitor.alarms if a.kind == kind] for kind in ("change", "band"))
    assert min(changed.step, above.step) >= 8
    assert changed.message.startswith("KL(policy‖reference) has moved: 0.")
    assert above.message.startswith("KL(policy‖reference) is above the limit of 0.5: ")
    far = batch(np.random.default_rng(5), 0.2)
    monitor = kb.KLMonitor()
    monitor.update(**far, behavior_logprobs=far["logprobs"] - 5.0 * (np.arange(32)[:, None] == 3), step=0)
    assert [alarm.kind for alarm in monitor.close()] == ["ess"]
    assert "carry the weight" in monitor.alarms[0].message


@pytest.mark.parametrize("limit", [None, 1.0])
def test_an_infinite_kl_is_above_any_limit(limit: float | None) -> None:
    data = batch(np.random.default_rng(5), 0.2)
    data["ref_logprobs"] = np.where(np.arange(32)[:, None] * 6 + np.arange(6) == 20, -np.inf, data["ref_logprobs"])
    monitor = kb.KLMonitor(limit=limit)
    monitor.update(**data, step=0)
    (alarm,) = monitor.close()
    assert (alarm.kind, alarm.value) == ("band", inf)
    assert alarm.message.startswith("KL(policy‖reference) is infinite: 1 prompts have tokens")
    assert monitor.metrics()["kullback/policy/k3"] == inf


def test_processes_that_merge_see_what_one_sees() -> None:
    whole, mine, other = (kb.KLMonitor(limit=1.0) for _ in range(3))
    data = batch(np.random.default_rng(6), 0.4)
    half = [{name: column[part] for name, column in data.items()} for part in (slice(16), slice(16, 32))]
    groups = np.arange(32) % 5
    whole.update(**data, groups=groups, step=1)
    mine.update(**half[0], groups=groups[:16], step=1)
    other.update(**half[1], groups=groups[16:], step=1)
    assert mine.merge(other).metrics() == pytest.approx(whole.metrics(), rel=1e-9, nan_ok=True)


def test_rows_without_groups_are_units_wherever_they_come_from() -> None:
    whole, mine, other = (kb.KLMonitor() for _ in range(3))
    data = batch(np.random.default_rng(6), 0.4, rows=80)
    whole.update(**data, step=1)
    mine.update(**{name: column[:30] for name, column in data.items()}, step=1)
    other.update(**{name: column[30:] for name, column in data.items()}, step=1)
    merged = mine.merge(other).metrics()
    assert merged["kullback/policy/anytime_low"] == pytest.approx(whole.metrics()["kullback/policy/anytime_low"])


def test_a_monitor_goes_on_where_it_stopped() -> None:
    noises = [0.1] * 8 + [0.9] * 4
    whole = run(kb.KLMonitor(limit=0.5, run_length=500), noises)
    first = run(kb.KLMonitor(limit=0.5, run_length=500), noises[:9])
    state = json.loads(json.dumps(first.state(), allow_nan=False))
    second = run(kb.KLMonitor(limit=0.5, run_length=500).restore(state), noises[9:], start=9)
    assert first.alarms + second.alarms == whole.alarms
    assert second.metrics() == whole.metrics()


Q = [[-0.5, -1.0]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kb.KLMonitor(limit=0), "limit=0 came, but it has to be a positive number"),
        (lambda: kb.KLMonitor(run_length=inf), "run_length=inf came"),
        (lambda: kb.KLMonitor(least_ess=2), "least_ess=2 came, but it is a share"),
        (lambda: kb.KLMonitor().update(Q, step=0), "ref_logprobs or behavior_logprobs of the same tokens are needed"),
        (lambda: kb.KLMonitor().update([[0.5, -1.0]], Q, step=0), "a log-prob is at most 0"),
        (lambda: kb.KLMonitor().restore({}), "no state of a KLMonitor of this version"),
        (lambda: kb.KLMonitor(limit=1).restore(kb.KLMonitor().state()), "use equal options"),
        (lambda: kb.KLMonitor().merge(kb.KLMonitor(limit=1)), "only monitors with equal options merge"),
        (lambda: run(kb.KLMonitor(), [0.1]).update(Q, Q, step=0), "step 0 came after step 0 was closed"),
    ],
)
def test_what_cannot_be_is_refused(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_a_refused_batch_changes_nothing() -> None:
    monitor = run(kb.KLMonitor(), [0.2])
    before = monitor.metrics()
    with pytest.raises(ShapeError):
        monitor.update(Q, [[-0.5]], step=1)
    assert monitor.metrics() == before


def test_run_lengths_are_held_by_bounded_bets() -> None:
    """A run of one step: P(alarm) ≤ 1/run length, by enumeration of a coin."""
    for limit, high in ((1.0, 4.0), (0.5, 8.0)):
        chance = limit / high
        raised = sum(
            chance ** sum(path) * (1 - chance) ** (3 - sum(path))
            for path in product((0, 1), repeat=3)
            if AboveBand(limit, 20).update(high * np.array(path, dtype=float))
        )
        assert raised <= 1 / 20
