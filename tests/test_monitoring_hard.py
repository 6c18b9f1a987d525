"""The monitor where runs are awkward: uneven ranks, steps without a token, nan, changing prompts, runs that stop."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import kullback as kb
from kullback.errors import InputError

ROWS, TIME = 40, 6


def drawn(seed: int = 0, *, noise: float = 0.3, rows: int = ROWS, **beside: bool) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    p = -rng.exponential(size=(rows, TIME)) - 0.5
    q = np.minimum(p + noise * rng.normal(size=p.shape), 0)
    found = {"logprobs": q, "ref_logprobs": p, "mask": np.arange(TIME) < rng.integers(1, TIME + 1, rows)[:, None]}
    if beside.get("engine"):
        found["behavior_logprobs"] = np.minimum(q + 0.02 * rng.normal(size=p.shape), 0)
    if beside.get("exact"):
        found["token_kl"] = rng.exponential(size=p.shape) * noise**2
    if beside.get("groups"):
        found["groups"] = np.arange(rows) // 4
    return found


def part(data: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {name: column[rows] for name, column in data.items()}


def none_counts(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "mask": np.zeros_like(data["mask"])}


def rank(data: dict[str, Any]) -> kb.KLMonitor:
    """What a process makes of its rows, to be sent to another one."""
    monitor = kb.KLMonitor(limit=1.0)
    monitor.update(**data, step=3)
    return monitor


@pytest.mark.parametrize("beside", [{}, {"engine": True, "groups": True}, {"exact": True, "groups": True}], ids=str)
def test_uneven_ranks_in_processes_of_their_own_are_one_batch(beside: dict[str, bool]) -> None:
    """Of 40 rows one rank has 2, one 37, one a row that does not count, and a prompt's rows lie in two of them."""
    data = drawn(**beside)
    data["mask"][39] = False
    whole = rank(data)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        shares = [part(data, rows) for rows in (slice(2), slice(2, 39), slice(39, 40))]
        first, *others = pool.map(rank, shares)
    for other in others:
        first.merge(other)
    assert first.metrics() == pytest.approx(whole.metrics(), rel=1e-12, nan_ok=True)
    assert first.alarms == whole.alarms


def test_a_rank_that_saw_nothing_of_the_step_adds_nothing() -> None:
    data, idle = drawn(), kb.KLMonitor(limit=1.0)
    expected = rank(data).metrics()
    assert rank(data).merge(idle).metrics() == expected
    assert idle.merge(rank(data)).metrics() == expected
    with pytest.raises(InputError, match="a monitor at step 3 came to one at step 4"):
        kb.KLMonitor(limit=1.0).restore({**rank(data).state(), "step": 4}).merge(rank(data))


def test_merging_leaves_the_other_as_it_was() -> None:
    data = drawn()
    first, second, third = (rank(part(data, rows)) for rows in (slice(5), slice(5, 9), slice(9, 40)))
    before = rank(part(data, slice(5, 9))).metrics()
    kb.KLMonitor(limit=1.0).merge(second).merge(third).merge(first)
    assert second.metrics() == pytest.approx(before, rel=0, nan_ok=True)


@pytest.mark.parametrize("beside", [{}, {"engine": True, "groups": True}, {"exact": True}], ids=str)
def test_a_step_without_a_token_has_no_numbers_and_changes_none(beside: dict[str, bool]) -> None:
    steps = [drawn(seed, **beside) for seed in range(6)]
    plain, odd = kb.KLMonitor(limit=1.0), kb.KLMonitor(limit=1.0)
    for number, data in enumerate(steps):
        plain.update(**data, step=2 * number)
        odd.update(**data, step=2 * number)
        expected = plain.metrics()
        assert odd.metrics() == pytest.approx(expected, nan_ok=True)
        odd.update(**none_counts(data), step=2 * number + 1)
        empty = odd.metrics()
        assert set(empty) == set(expected)
        for name, value in empty.items():
            assert value == 0 if name.endswith("alarms") else np.isnan(value)
        with pytest.raises(InputError, match=r"no step with KL\(policy‖reference\) was read yet"):
            odd.estimate()
    assert odd.state()["readings"] == plain.state()["readings"]


def test_rows_and_batches_that_do_not_count_change_nothing_of_a_step() -> None:
    data, empty = drawn(groups=True), kb.KLMonitor()
    empty.update(**none_counts(data), step=0)
    empty.update(**data, step=0)
    empty.update(**none_counts(data), step=0)
    padded = {name: np.concatenate([column, column[:3]]) for name, column in data.items()}
    padded["mask"][ROWS:] = False
    padded["logprobs"][ROWS:] = np.nan
    one, other = kb.KLMonitor(), kb.KLMonitor()
    one.update(**data, step=0)
    other.update(**padded, step=0)
    assert empty.metrics() == other.metrics() == one.metrics()


@pytest.mark.parametrize("column", ["logprobs", "ref_logprobs", "behavior_logprobs", "token_kl"])
def test_a_nan_that_counts_is_said_by_its_place_and_changes_nothing(column: str) -> None:
    data = drawn(engine=True, exact=True)
    monitor = rank(data)
    before = rank(data).metrics()
    bad = {**data, column: data[column].copy()}
    bad[column][7, 0] = np.nan
    for step in (3, 4):
        with pytest.raises(InputError, match=rf"{column}\[7, 0\] is nan"):
            monitor.update(**bad, step=step)
    assert monitor.metrics() == before


def test_a_batch_that_is_refused_late_changes_nothing() -> None:
    """Weights beyond all bounds are only seen where they are computed."""
    data = drawn(engine=True)
    monitor = rank(data)
    before = rank(data).metrics()
    bad = {**data, "behavior_logprobs": np.where(np.arange(ROWS)[:, None] == 9, -300.0, data["behavior_logprobs"])}
    for step in (3, 4):
        with pytest.raises(InputError, match="importance weight"):
            monitor.update(**bad, step=step)
    with pytest.raises(InputError, match="one part came with groups and the other without"):
        monitor.update(**data, groups=np.arange(ROWS), step=3)
    assert monitor.metrics() == before


def test_names_of_prompts_may_change_from_step_to_step() -> None:
    """Units are a step's own: numbers, text and no names at all are alike where they make the same prompts."""
    names = [np.arange(ROWS) // 4, [f"p{i // 4}" for i in range(ROWS)], [(i // 4, "x") for i in range(ROWS)]]
    mixed, same = kb.KLMonitor(limit=1.0), kb.KLMonitor(limit=1.0)
    for step in range(9):
        mixed.update(**drawn(step), groups=names[step % 3], step=step)
        same.update(**drawn(step), groups=names[0], step=step)
        assert mixed.metrics() == same.metrics()
    assert json.dumps(mixed.state()) == json.dumps(same.state())


@pytest.mark.parametrize("stop", [1, 7, 70])
def test_a_run_that_stops_and_goes_on_is_the_same_to_the_byte(stop: int) -> None:
    """80 steps, so that starts of sequences are given up too, with a change in them."""

    def go(monitor: kb.KLMonitor, steps: range) -> list[dict[str, float]]:
        found = []
        for step in steps:
            noise = 0.3 if step < 60 else 0.5
            monitor.update(**drawn(step, noise=noise, engine=True, exact=True, groups=True), step=step)
            found.append(monitor.metrics())
        return found

    options = {"limit": 3.0, "mismatch_limit": 0.1, "run_length": 200}
    whole, first, second = (kb.KLMonitor(**options) for _ in range(3))
    lines = go(whole, range(80))
    before = go(first, range(stop))
    after = go(second.restore(json.loads(json.dumps(first.state(), allow_nan=False))), range(stop, 80))
    assert json.dumps(before + after) == json.dumps(lines)
    assert json.dumps(second.state()) == json.dumps(whole.state())
    assert first.alarms + second.alarms == whole.alarms
    assert {alarm.kind for alarm in whole.alarms} >= {"change"}
