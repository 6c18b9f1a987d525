"""Token values: exactly unbiased over all data sets, shrunk to Rao-Blackwell, and the same however data come."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import kullback as kb
from kullback.estimation.ragged import Ragged
from kullback.estimation.sequences import Sequences
from kullback.estimation.token_values import Held, controlled
from kullback.estimation.token_values.choice import Care, choose
from kullback.estimation.token_values.subtraction import freedom_of
from kullback.estimation.token_values.table import folds
from kullback.oracle import TreeLM, World
from kullback.oracle.tree import prefix_count


def random_world(seed: int, vocab: int, horizon: int, apart: float = 0.8) -> World:
    rng = np.random.default_rng(seed)
    shape = (prefix_count(vocab, horizon), vocab)
    base = rng.normal(size=shape)
    return World(*(TreeLM(base + apart * rng.normal(size=shape), eos=0, horizon=horizon) for _ in range(2)))


def batch(world: World, rows: np.ndarray, groups: np.ndarray | None = None) -> Sequences:
    found = {name: values[rows] for name, values in world.features().items()}
    policy = world.policy
    return Sequences(
        logprobs=policy.logprobs[rows],
        ref_logprobs=world.reference.logprobs[rows],
        mask=policy.mask[rows],
        token_kl=world.token_kl[rows],
        groups=groups,
        **found,
    )


def joined(first: Sequences, second: Sequences) -> Sequences:
    columns = {name: value for name, value in vars(first).items() if value is not None}
    return Sequences(**{name: np.concatenate([x, getattr(second, name)]) for name, x in columns.items()})


ALL = Care(square=0.0, rows_a_gain=0.0)
"""Nothing holds a control back."""


def _moved(sequences: Sequences, care: Care = ALL) -> np.ndarray:
    """What is subtracted from every sequence."""
    found = controlled(sequences, per_token=False, care=care).sequences
    return np.asarray((sequences.token_kl - found.token_kl).sum(axis=1))


@pytest.mark.parametrize(
    ("vocab", "horizon", "count", "care"),
    [
        (2, 3, 3, ALL),
        pytest.param(2, 3, 4, ALL, marks=pytest.mark.slow),
        pytest.param(3, 2, 3, ALL, marks=pytest.mark.slow),
        pytest.param(3, 2, 3, Care(square=0.0, rows_a_gain=1.5), marks=pytest.mark.slow),
        pytest.param(2, 3, 5, Care(square=1.0, rows_a_gain=2.0), marks=pytest.mark.slow),
    ],
)
def test_the_mean_over_all_data_sets_is_the_true_kl(vocab: int, horizon: int, count: int, care: Care) -> None:
    world = random_world(1, vocab, horizon)
    weights, kls = np.asarray(world.probability), np.asarray(world.token_kl).sum(axis=1)
    mean = moved = 0.0
    for rows in product(range(len(weights)), repeat=count):
        off = _moved(batch(world, np.array(rows)), care)
        mean += weights[list(rows)].prod() * float((kls[list(rows)] - off).mean())
        moved = max(moved, float(np.abs(off).max()))
    assert abs(mean - float(world.exact(kb.REVERSE_KL))) < 1e-10
    assert moved > 1e-4 or care != ALL  # what has mean zero is not 0


def test_the_mean_over_all_data_sets_of_two_prompts_is_the_mean_of_their_kls() -> None:
    worlds = [random_world(seed, vocab=2, horizon=2) for seed in (2, 3)]
    truth = np.mean([3 / 5, 2 / 5] @ np.array([float(world.exact(kb.REVERSE_KL)) for world in worlds]))
    weights = [np.asarray(world.probability) for world in worlds]
    groups = np.array([0, 0, 0, 1, 1])
    mean = moved = 0.0
    for rows in product(range(3), repeat=5):
        drawn = np.array(rows)
        chance = weights[0][drawn[:3]].prod() * weights[1][drawn[3:]].prod()
        chosen = joined(batch(worlds[0], drawn[:3], groups[:3]), batch(worlds[1], drawn[3:], groups[3:]))
        off = _moved(chosen)
        mean += chance * float((chosen.token_kl.sum(axis=1) - off).mean())
        moved = max(moved, float(np.abs(off).max()))
    assert abs(mean - truth) < 1e-10
    assert moved > 1e-4


def test_two_sequences_leave_rao_blackwell_as_it_is() -> None:
    world = random_world(4, vocab=3, horizon=3)
    assert not _moved(batch(world, np.array([3, 8]))).any()


def test_a_fold_is_dealt_by_place_and_every_prompt_has_all() -> None:
    assert folds(np.array([0] * 5 + [1] * 5)).tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert folds(np.arange(8)).tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert folds(np.zeros(3, dtype=int)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_a_long_world_has_less_variance_and_the_error_says_so(unit: str) -> None:
    world = random_world(5, vocab=3, horizon=5, apart=0.5)
    sequences = batch(world, world.policy.sample(np.random.default_rng(0), 400))
    both = [_estimate(sequences, name, unit) for name in ("rao_blackwell", "rao_blackwell_controlled")]
    assert both[1].stderr < 0.75 * both[0].stderr
    assert 0.5 < both[1].coefficients["token_values"] <= 1.0


def test_a_control_that_is_too_good_for_its_sequences_is_subtracted_in_part() -> None:
    rng = np.random.default_rng(0)
    total = rng.normal(size=240)
    for rows, left in ((40, 1.0), (80, 0.5), (240, 1 / 6)):
        y, one = total[:rows], np.zeros(rows, dtype=int)
        control = y - y.mean() + 1e-3 * rng.normal(size=rows)
        weight = choose(y, one, control[:, None]).weight
        rest = np.var(y - weight * control) / np.var(y)
        assert rest == pytest.approx(left, rel=0.01)


def test_an_error_that_few_sequences_tell_has_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=20_000)
    assert freedom_of(normal) == pytest.approx(20_000, rel=0.05)
    rare = np.where(np.arange(100) < 4, 5.0, 0.0)
    square, fourth = np.mean((rare - 0.2) ** 2), np.mean((rare - 0.2) ** 4)
    assert freedom_of(rare - 0.2) == pytest.approx(200 / (fourth / square**2 - 1))
    assert freedom_of(rare - 0.2) < 10.0
    assert freedom_of(np.zeros(5)) == np.inf


@pytest.mark.parametrize("prompts", [None, 4])
def test_the_interval_is_as_wide_as_its_degrees_of_freedom_say(prompts: int | None) -> None:
    world = random_world(1, vocab=3, horizon=4, apart=1.0)
    groups = None if prompts is None else np.arange(160) % prompts
    rows = world.policy.sample(np.random.default_rng(0), 160)
    found = _estimate(batch(world, rows, groups), "rao_blackwell_controlled")
    assert found.coefficients["token_values"] > 0.0
    if found.given_prompts is not None:
        assert found.freedom == np.inf  # the error of prompts drawn anew is known from their sums
        found = found.given_prompts  # type: ignore[assignment]
    assert found.freedom < 155.0
    low, high = found.interval()
    without_low, without_high = replace(found, freedom=159.0).interval()
    assert high - low > without_high - without_low


@pytest.mark.slow
@pytest.mark.parametrize("rows", [8, 16, 32, 64])
@pytest.mark.parametrize("world", [(11, 3, 4, 0.3), (12, 5, 3, 1.0), (13, 2, 3, 0.1)], ids=str)
def test_the_error_is_no_larger_and_the_interval_holds_the_truth_as_often_as_rao_blackwell(
    world: tuple[int, int, int, float], rows: int
) -> None:
    known, rng = random_world(*world), np.random.default_rng(rows)
    truth, squares, held = float(known.exact(kb.REVERSE_KL)), np.zeros(2), np.zeros(2)
    for _ in range(100):
        drawn = batch(known, known.policy.sample(rng, rows))
        for at, name in enumerate(("rao_blackwell", "rao_blackwell_controlled")):
            found = _estimate(drawn, name)
            squares[at] += (found.value - truth) ** 2
            held[at] += found.interval()[0] <= truth <= found.interval()[1]
    assert squares[1] <= 1.02 * squares[0]
    assert held[1] >= min(90, held[0] - 4)


def test_what_is_subtracted_from_a_fold_does_not_look_at_it() -> None:
    world = random_world(6, vocab=3, horizon=3)
    rows = world.policy.sample(np.random.default_rng(1), 40)
    mine = folds(np.zeros(40, dtype=int)) == 1
    others = np.where(mine & (np.arange(40) > 1), rows[0], rows)  # all of fold 1 but its first
    first, second = (_moved(batch(world, one)) for one in (rows, others))
    assert first[1] == pytest.approx(second[1], abs=1e-12)
    assert abs(first[1]) > 1e-3
    assert not np.allclose(first[~mine], second[~mine])


def _estimate(sequences: Sequences, name: str, unit: str = "sequence") -> kb.Estimate:
    return kb.Accumulator(estimator=name, unit=unit).update(sequences).result()


@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_parts_merge_restore_and_lie_end_to_end(unit: str) -> None:
    world = random_world(7, vocab=3, horizon=4)
    rows = world.policy.sample(np.random.default_rng(3), 60)
    groups = np.repeat(np.arange(6), 10)
    whole = batch(world, rows, groups)
    wanted = _estimate(whole, "rao_blackwell_controlled", unit)
    parts = [
        kb.Accumulator(estimator="rao_blackwell_controlled", unit=unit).update(whole.select(part))
        for part in (slice(0, 25), slice(25, 60))
    ]
    state = parts[0].merge(parts[1]).state()
    restored = kb.Accumulator(estimator="rao_blackwell_controlled", unit=unit).restore(state).result()
    assert abs(restored.value - wanted.value) < 1e-12
    assert abs(restored.stderr - wanted.stderr) < 1e-12
    mask = whole.mask
    columns = {name: value[mask] for name, value in vars(whole).items() if value is not None and value.ndim > 1}
    columns.pop("mask")
    ragged = Ragged.of(offsets=np.concatenate([[0], np.cumsum(whole.lengths)]), groups=groups, **columns)
    sums = [kb.Accumulator(estimator=name, unit=unit) for name in ("rao_blackwell", "rao_blackwell_controlled")]
    kb.Accumulator.update_all(sums, ragged)
    assert abs(sums[1].result().value - wanted.value) < 1e-12
    assert wanted.given_prompts is not None
    assert sums[1].result().given_prompts == wanted.given_prompts


def test_lists_and_arrays_are_taken_and_what_is_none_is_refused() -> None:
    world = random_world(8, vocab=3, horizon=3)
    rows = world.policy.sample(np.random.default_rng(4), 40)
    one, known = world.sample(np.random.default_rng(4), 40), world.features()
    arrays = {name: values[rows] for name, values in known.items()}
    lengths = one["mask"].sum(axis=1)
    ragged = {
        name: [row[:length] for row, length in zip(values, lengths, strict=True)]
        for name, values in ({**one, **arrays}).items()
        if name != "mask"
    }
    found = kb.estimate(**one, **arrays, estimator="rao_blackwell_controlled")
    assert kb.estimate(**ragged, estimator="rao_blackwell_controlled").value == pytest.approx(found.value, abs=1e-12)
    with pytest.raises(kb.errors.ShapeError, match="deviation has shape"):
        kb.estimate(**one, deviation=arrays["deviation"][:, :2], estimator="rao_blackwell_controlled")
    bad = {name: values.copy() for name, values in arrays.items()}
    bad["state"][0, 0, 0] = np.nan
    with pytest.raises(kb.errors.InputError, match="state holds a number that is not finite"):
        kb.estimate(**one, **bad, estimator="rao_blackwell_controlled")


def test_batches_with_and_without_deviation_do_not_mix() -> None:
    world = random_world(9, vocab=3, horizon=3)
    with_it = batch(world, world.policy.sample(np.random.default_rng(5), 10))
    without = world.sample(np.random.default_rng(6), 10)
    for first, second in ((with_it, without), (without, with_it)):
        started = kb.Accumulator(estimator="rao_blackwell_controlled").update(first)
        with pytest.raises(kb.errors.InputError, match="some batches came with deviation"):
            started.update(second)
        with pytest.raises(kb.errors.InputError, match="do not merge"):
            started.merge(kb.Accumulator(estimator="rao_blackwell_controlled").update(second))


def test_other_laws_and_infinite_kls_are_left_to_rao_blackwell() -> None:
    world = random_world(10, vocab=3, horizon=3)
    sequences = batch(world, world.policy.sample(np.random.default_rng(7), 12))
    columns = {name: value for name, value in vars(sequences).items() if value is not None}
    assert not Held.takes(Sequences(**columns, behavior_logprobs=sequences.logprobs))
    columns["token_kl"] = np.where(sequences.mask & (np.arange(12) == 3)[:, None], np.inf, sequences.token_kl)
    assert np.isinf(_estimate(Sequences(**columns), "rao_blackwell_controlled").value)
