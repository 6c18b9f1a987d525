"""What bfloat16 logits add to a KL, against torch's own rounding and against what is logged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kullback.claims.worlds.heads import bfloat16, difference_kl, floor, heads, steps, token_kl
from kullback.claims.worlds.pairs import Pair, softmax

SEEDS = range(3)


def test_rounding_is_torchs() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000) * 10.0 ** rng.integers(-6, 6, size=10_000)
    wanted = torch.tensor(values, dtype=torch.float32).bfloat16().double().numpy()
    assert np.array_equal(bfloat16(values), wanted)


def test_steps_are_the_distances_of_neighbours() -> None:
    assert [*steps(np.array([1.0, 1.99, 4.0, 7.9, -5.0, 16.0]))] == [2**-7, 2**-7, 2**-5, 2**-5, 2**-5, 2**-3]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kl_by_the_difference_is_the_kl(seed: int) -> None:
    z, d = np.random.default_rng(seed).normal(size=(2, 4, 9))
    exact = [Pair(q, p).kl for q, p in zip(softmax(z), softmax(z - d), strict=True)]
    assert token_kl(z, z - d) == pytest.approx(exact, rel=1e-12)
    assert difference_kl(z, d) == pytest.approx(exact, rel=1e-12)


def test_equal_models_have_no_floor() -> None:
    z = np.random.default_rng(0).normal(size=(4, 100))
    assert floor(z, np.zeros_like(z)).max() == 0.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("kl", [1e-5, 1e-4, 1e-3])
def test_the_floor_is_what_rounding_adds(seed: int, size: float, kl: float) -> None:
    found = heads(seed, size, kl)
    assert found.kl == pytest.approx(kl, rel=1e-3)
    assert found.logged - found.kl == pytest.approx(found.floor, rel=0.25, abs=0.05 * kl)
    assert found.by_difference == pytest.approx(kl, rel=0.02)
