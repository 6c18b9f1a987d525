"""Ways to less variance, each against an enumeration of its own."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from kullback import lab
from kullback.errors import InputError
from kullback.lab import variance_ways
from kullback.lab.variance_ways import WAYS, Sequences, Spread
from kullback.lab.variance_worlds import _world


def at(vocab: int = 3, horizon: int = 3, seed: int = 0, distance: float = 0.7) -> Sequences:
    return Sequences(_world(vocab, horizon, distance, np.random.default_rng(seed)))


def summed(weights: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    mean = float(weights @ values)
    return mean, float(weights @ (values - mean) ** 2)


def same(found: Spread, mean: float, variance: float) -> bool:
    return found.mean == pytest.approx(mean, abs=1e-12) and found.variance == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(2, 2), (2, 6), (4, 3), (6, 2)], ids=str)
def test_every_way_has_the_kl_as_its_mean(way: str, shape: tuple[int, int]) -> None:
    for seed in range(3):
        one = at(*shape, seed)
        found = WAYS[way](one)
        assert abs(found.mean - one.mean(one.total)) < 1e-10
        assert found.variance >= -1e-12
        assert found.tokens >= 1.0


def test_more_controls_leave_less_and_the_kl_to_come_leaves_nothing() -> None:
    for seed in range(3):
        one = at(4, 4, seed)
        names = ("Rao-Blackwell", "… less the end token", "… less a table of next tokens", "… less z′W e(v)")
        left = [WAYS[name](one).variance for name in names]
        assert left == sorted(left, reverse=True)
        assert WAYS["… less the KL to come"](one).variance < 1e-20
        assert WAYS["termination integrated out"](one).variance < left[0]
        paths = [WAYS[name](one).variance for name in ("termination integrated out", "… less z′W e(v), of paths")]
        assert paths[1] < paths[0]


def test_distinct_sequences_are_those_of_every_ordered_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance_ways, "DRAWS", 3)
    one = at(3, 2)
    inside = 1.0 - (1.0 - one.chance) ** 3
    weights, values = [], []
    for rows in product(range(len(one.chance)), repeat=3):
        weights.append(one.chance[list(rows)].prod())
        values.append(sum(one.chance[i] * one.total[i] / inside[i] for i in set(rows)))
    mean, variance = summed(np.array(weights), np.array(values))
    assert same(WAYS["distinct ones of 16"](one), mean, 3 * variance)


def test_lattices_and_pairs_are_those_of_a_fine_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance_ways, "DRAWS", 4)
    one, fine = at(3, 2), 200_000
    ends = np.cumsum(one.chance)[:-1]
    u = (np.arange(fine) + 0.5) / fine
    lattice = np.mean([one.total[np.searchsorted(ends, (u + i) / 4)] for i in range(4)], axis=0)
    pairs = (one.total[np.searchsorted(ends, u)] + one.total[np.searchsorted(ends, 1 - u)]) / 2
    assert WAYS["a lattice of 16"](one).variance == pytest.approx(4 * lattice.var(), rel=1e-3)
    assert WAYS["antithetic pairs"](one).variance == pytest.approx(2 * pairs.var(), rel=1e-3)


def test_branches_are_those_of_every_pair_with_one_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance_ways, "BRANCHES", 2)
    one = at(3, 3)
    first = one.tokens[:, 0]
    mass = np.bincount(first, one.chance)
    weights, values, tokens = [], [], []
    for a, b in product(range(len(first)), repeat=2):
        if first[a] == first[b]:
            weights.append(one.chance[a] * one.chance[b] / mass[first[a]])
            values.append((one.total[a] + one.total[b]) / 2)
            tokens.append(one.length[a] + one.length[b] - 1)
    mean, variance = summed(np.array(weights), np.array(values))
    found = WAYS["4 from a first token"](one)
    assert same(found, mean, variance)
    assert found.tokens == pytest.approx(float(np.array(weights) @ np.array(tokens)))


def test_termination_is_integrated_out_of_every_path() -> None:
    one = at(3, 3)
    q, place = np.exp(np.asarray(one.world.policy.log_distributions)), one.world.policy.prefixes.index
    kl = {one.places[i, t]: one.kl[i, t] for i in range(len(one.kl)) for t in range(3) if one.mask[i, t]}
    weights, values = [], []
    for path in product((1, 2), repeat=2):
        chance, alive, value = 1.0, 1.0, 0.0
        for t in range(3):
            row = place(path[:t])
            value += alive * kl[row]
            if t < 2:
                chance *= q[row, path[t]] / (1 - q[row, 0])
            alive *= 1 - q[row, 0]
        weights.append(chance)
        values.append(value)
    mean, variance = summed(np.array(weights), np.array(values))
    assert same(WAYS["termination integrated out"](one), mean, variance)
    assert mean == pytest.approx(one.mean(one.total), abs=1e-12)


def test_strata_leave_what_is_within_them() -> None:
    one = at(3, 3)
    within = []
    for token in range(3):
        rows = one.tokens[:, 0] == token
        weight = one.chance[rows].sum()
        within.append((weight, summed(one.chance[rows] / weight, one.total[rows])[1]))
    proportional, neyman = (WAYS[name](one) for name in ("strata of first tokens", "strata, Neyman's sizes"))
    assert proportional.variance == pytest.approx(sum(w * v for w, v in within))
    assert neyman.variance == pytest.approx(sum(w * v**0.5 for w, v in within) ** 2)
    assert proportional.tokens == pytest.approx(one.mean(one.length))


def test_worlds_that_cannot_be_looked_at_are_refused() -> None:
    with pytest.raises(InputError, match="more than 3,000 sequences"):
        lab.variance(vocab=10, horizon=10)
    with pytest.raises(InputError, match="two steps"):
        lab.variance(horizon=1)
    with pytest.raises(InputError, match="above 0"):
        lab.variance([0.0])
