"""What numbers were rounded to: found where it is so, and not where chance could have made it so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kullback as kb
from kullback.rollouts import quanta
from kullback.rollouts.quanta import Rounding, floor, law_of_values, rounded_copy, rounding_of, rounding_within


def logprobs(seed: int, count: int) -> np.ndarray:
    """In float32, from nearly 0 to −10."""
    rng = np.random.default_rng(seed)
    return (-rng.exponential(size=count) * 10.0 ** rng.integers(-2, 1, size=count)).astype(np.float32)


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(1, 400), st.booleans())
def test_float32_that_was_not_rounded_has_no_grid(seed: int, count: int, printed: bool) -> None:
    values = logprobs(seed, count)
    seen = np.array([float(str(value)) for value in values]) if printed else values  # the digits that NumPy prints
    assert rounding_of(seen) is None


@settings(deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 3, 4, 5, 6]), st.booleans())
def test_decimals_are_found(seed: int, digits: int, single: bool) -> None:
    values = np.round(logprobs(seed, 300).astype(np.float64), digits)
    found = rounding_of(values.astype(np.float32) if single else values)
    assert found == Rounding("decimals", pytest.approx(10.0**-digits))
    assert found.words == ("1 decimal" if digits == 1 else f"{digits} decimals")


@settings(deadline=None)
@given(SEEDS, st.sampled_from(["bfloat16", "float16"]), st.integers(300, 900))
def test_half_precision_is_found_by_its_steps(seed: int, kind: Any, count: int) -> None:
    values = logprobs(seed, count)
    rounded = quanta._rounded(values, kind)
    found = rounding_of(rounded)
    assert found is not None
    assert found.kind == kind
    # The step explains the error: uniform on it, of variance s²/12.
    error = float(np.mean((rounded.astype(float) - values) ** 2))
    assert 0.3 * found.step**2 / 12 < error < 3 * found.step**2 / 12


@settings(deadline=None)
@given(SEEDS, st.integers(-8, -1))
def test_multiples_of_a_power_of_two_are_found(seed: int, power: int) -> None:
    step = 2.0**power
    values = -step * np.random.default_rng(seed).integers(1, 2000, size=200)
    found = rounding_of(values)
    assert found is not None
    assert found.kind in ("binary", "float16", "bfloat16")
    assert found.step <= step * 2000 / 2**8


def test_few_numbers_say_nothing() -> None:
    assert rounding_of(np.array([-0.5, -0.25, -1.5])) is None
    assert rounding_of(np.full(1000, -0.5)) is None
    assert rounding_of(np.zeros(100)) is None
    assert rounding_of(np.array([-0.1234, -0.5678, np.nan, -np.inf])) is None


@settings(deadline=None)
@given(SEEDS)
def test_bfloat16_logits_are_seen_inside_a_position_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.uniform(8, 15.9, size=(20, 5)) * 16) / 16
    normaliser = np.log(np.exp(logits).sum(axis=1) + rng.uniform(0, 1e4, size=20))[:, None]
    seen = (logits - normaliser).astype(np.float32)
    assert rounding_of(seen) is None
    found = rounding_within([dict(enumerate(row.tolist())) for row in seen])
    assert found is not None
    assert found.kind == "logits"
    assert found.step in (1 / 16, 1 / 8, 1 / 4)
    assert "logits that are multiples of 1/" in found.words


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(1, 60))
def test_float32_logits_are_no_grid(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.uniform(8, 16, size=(count, 5))
    seen = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    assert rounding_within([dict(enumerate(row.tolist())) for row in seen]) is None


def test_a_reference_that_is_the_policy_rounded_is_said() -> None:
    q = logprobs(1, 200)
    p = quanta._rounded(q, "bfloat16")
    p[::12] -= 0.5
    found = rounded_copy(q, p)
    assert found is not None
    assert (found.count, found.kind) == (200 - len(p[::12]), "bfloat16")
    assert rounded_copy(q, logprobs(2, 200)) is None
    assert rounded_copy(q, q) is None
    assert rounded_copy(p, p) is None


@pytest.mark.parametrize(
    ("values", "law"),
    [
        ([0.0] * 51 + [-1.7, -0.7, -0.5, -0.05], "processed"),
        ([0.0] * 51 + list(-np.logspace(-7, 0, 60)), "unknown"),  # a model that is sure
        ([0.0] * 4 + [-1.0] * 4, "unknown"),
        ([-1.0] * 100, "unknown"),
    ],
    ids=["alone in the filter", "sure", "few", "none"],
)
def test_zeros_tell_a_filter(values: list[float], law: str) -> None:
    assert law_of_values(np.array(values)) == law


@pytest.mark.parametrize("step", [1e-4, 2.0**-7, 2.0**-5])
def test_the_floor_is_the_kl_of_rounding_alone(step: float) -> None:
    rng = np.random.default_rng(0)
    once, twice = (np.round(truth / step) * step - truth for truth in rng.uniform(-8, -4, size=(2, 200_000)))
    assert floor(step, step) == pytest.approx(np.mean((once - twice) ** 2) / 2, rel=0.02)
    assert floor(step) == pytest.approx(np.mean(once**2) / 2, rel=0.02)
    assert floor(1e-4, 1e-4) == pytest.approx(8.3e-10, rel=0.01)


def test_rollouts_say_it_of_their_columns(tmp_path: Any) -> None:
    q = logprobs(3, 100)
    p = quanta._rounded(q, "bfloat16")
    finishes: tuple[Any, ...] = ("end", "length", "unknown")
    rows = [kb.Rollout(logprobs=q, ref_logprobs=p, finish=finish) for finish in finishes]
    kb.write_rollouts(tmp_path / "r.parquet", rows)
    found = kb.read_rollouts(tmp_path / "r.parquet")
    assert found.rounding["logprobs"] is None
    assert found.rounding["ref_logprobs"] is not None
    assert found.rounding["ref_logprobs"].kind == "bfloat16"
    assert found.quantum["ref_logprobs"] == found.rounding["ref_logprobs"].step
    assert found.rounded_copy is not None
    assert not found.complete
    ends = found.endings
    assert (ends.ended, ends.cut, ends.unknown, ends.missing, ends.sequences) == (1, 1, 1, 0, 3)
