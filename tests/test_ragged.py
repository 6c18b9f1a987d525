"""Sequences end to end: the estimates of the padded way, and its refusals."""

from __future__ import annotations

import pickle
from dataclasses import asdict, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.estimation import Ragged, Sequences, flat
from kullback.estimation.flat import found_in
from kullback.estimation.gaps import exp_gap
from kullback.estimation.rows import Rows
from kullback.estimators import divergences

ESTIMATORS = ("k1", "k2", "k3", "control_variate", "squared_hellinger", "pearson_chi2")
EXACT = ("rao_blackwell", "rao_blackwell_controlled")
COLUMNS = ("mask", "groups", "behavior_logprobs", "token_kl", "ref_mass")


def drawn(seed: int, rows: int = 40, scale: float = 0.1, *, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Columns end to end, some sequences empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, size=rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    q = -rng.exponential(size=offsets[-1]).astype(np.float32)
    p = np.minimum(q + scale * rng.normal(size=q.size).astype(np.float32), 0)
    columns = {
        "mask": rng.random(q.size) < 0.7,
        "groups": rng.integers(0, 9, size=rows),
        "behavior_logprobs": np.minimum(q + 0.05 * rng.normal(size=q.size).astype(np.float32), 0),
        "token_kl": rng.exponential(size=q.size).astype(np.float32),
        "ref_mass": rng.uniform(0.5, 1, size=q.size).astype(np.float32),
    }
    return {"logprobs": q, "ref_logprobs": p, "offsets": offsets} | {name: columns[name] for name in beside}


def padded(columns: dict[str, Any]) -> dict[str, Any]:
    """The same as lists of rows."""
    ends = columns["offsets"]
    listed = {name: a for name, a in columns.items() if name not in ("offsets", "groups")}
    rows = {name: [a[i:j] for i, j in pairwise(ends)] for name, a in listed.items()}
    return rows | ({"groups": columns["groups"]} if "groups" in columns else {})


def agree(mine: kb.Estimate, other: kb.Estimate) -> None:
    for name, value in asdict(other).items():
        found = asdict(mine)[name]
        if isinstance(value, float):
            np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-300, err_msg=name)
        elif name == "influential":
            assert [(i["row"], i["token"]) for i in found] == [(i["row"], i["token"]) for i in value]
        elif name == "coefficients":
            assert found == pytest.approx(value, rel=1e-7)
        elif name == "given_prompts":
            assert (found is None) == (value is None)
            assert value is None or found == pytest.approx(value, rel=1e-9)
        else:
            assert found == value, name


@settings(max_examples=30, deadline=None)
@given(
    estimator=st.sampled_from(ESTIMATORS),
    unit=st.sampled_from(["sequence", "token"]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-4, 0.1, 1.0, 20.0]),
    beside=st.sets(st.sampled_from(["mask", "groups", "ref_mass"])),
    block=st.sampled_from([1, 17, 1 << 15]),
)
def test_the_estimate_is_that_of_padded_rows(
    estimator: str, unit: Any, seed: int, scale: float, beside: set[str], block: int
) -> None:
    columns = drawn(seed, scale=scale, beside=tuple(sorted(beside)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "BLOCK", block)
        mine = kb.Accumulator(estimator=estimator, unit=unit).update(Ragged.of(**columns)).result()
    agree(mine, kb.estimate(**padded(columns), estimator=estimator, unit=unit))


@pytest.mark.parametrize(
    ("options", "beside", "wrong"),
    [
        ({"estimator": "k1", "level": "sequence"}, ("mask",), None),
        ({"estimator": "k3"}, ("mask", "groups"), -np.inf),
        ({"estimator": "k3"}, ("behavior_logprobs",), -np.inf),
        ({"estimator": "k3"}, (), -800.0),
    ],
    ids=["whole sequences", "an excluded token", "an excluded token off-policy", "an overflow"],
)
def test_what_is_not_plain_is_padded(options: dict[str, Any], beside: tuple[str, ...], wrong: float | None) -> None:
    columns = drawn(3, beside=beside)
    if wrong is not None:
        columns["ref_logprobs" if wrong == -np.inf else "logprobs"][[7, 11]] = wrong
        if "mask" in columns:
            columns["mask"][7] = True
    ragged = Ragged.of(**columns)
    accumulator = kb.Accumulator(**options)
    assert found_in([accumulator._recipe], ragged) is None
    mine = accumulator.update(ragged).result()
    theirs = kb.estimate(**padded(columns), **options)
    assert mine.value == pytest.approx(theirs.value, rel=1e-12)
    assert mine.warnings == theirs.warnings


@settings(max_examples=60, deadline=None)
@given(
    estimator=st.sampled_from([*ESTIMATORS, *EXACT]),
    unit=st.sampled_from(["sequence", "token"]),
    truncate=st.sampled_from([None, 1.5, "self_normalised"]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-4, 0.1, 1.0]),
    beside=st.sets(st.sampled_from(COLUMNS)),
    block=st.sampled_from([1, 17, 1 << 15]),
)
def test_weights_and_token_kls_are_those_of_padded_rows(
    estimator: str, unit: Any, truncate: Any, seed: int, scale: float, beside: set[str], block: int
) -> None:
    exact = {"token_kl"} if estimator in EXACT else set[str]()
    columns = drawn(seed, scale=scale, beside=tuple(sorted(beside | exact)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "BLOCK", block)
        accumulator = kb.Accumulator(estimator=estimator, unit=unit, truncate=truncate)
        ragged = Ragged.of(**columns)
        assert found_in([accumulator._recipe], ragged) is not None
        mine = accumulator.update(ragged).result()
    agree(mine, kb.estimate(**padded(columns), estimator=estimator, unit=unit, truncate=truncate))


def test_weights_beyond_all_bounds_are_refused_in_the_same_words() -> None:
    columns = drawn(3, beside=("behavior_logprobs",))
    columns["behavior_logprobs"][5] = -300.0
    with pytest.raises(InputError, match=r"the importance weight q/μ of row \d+ reaches e\^"):
        kb.Accumulator(estimator="k3").update(Ragged.of(**columns))
    kb.Accumulator(estimator="k3", truncate=2.0).update(Ragged.of(**columns))


def test_several_are_fed_from_one_pass() -> None:
    parts = [Ragged.of(**drawn(seed, beside=("groups",))) for seed in range(3)]
    together = [kb.Accumulator(estimator=name) for name in ESTIMATORS]
    for part in parts:
        kb.Accumulator.update_all(together, part)
    for name, found in zip(ESTIMATORS, together, strict=True):
        alone = kb.Accumulator(estimator=name)
        for part in parts:
            alone.update(part)
        agree(found.result(), alone.result())


def test_masked_tokens_may_hold_anything() -> None:
    columns = drawn(5, beside=("mask",))
    mask = columns["mask"]
    wanted = kb.Accumulator(estimator="k3").update(Ragged.of(**columns)).result()
    for rubbish in (np.nan, np.inf, -1e10, 7.0):
        columns["logprobs"] = np.where(mask, columns["logprobs"], np.float32(rubbish))
        columns["ref_logprobs"] = np.where(mask, columns["ref_logprobs"], np.float32(-rubbish))
        agree(kb.Accumulator(estimator="k3").update(Ragged.of(**columns)).result(), wanted)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"logprobs": {4: np.nan}}, InputError, r"logprobs\[(\d+), \d+\] is nan"),
        ({"ref_logprobs": {4: 0.5}}, InputError, r"ref_logprobs\[(\d+), \d+\] is 0.5.*a log-prob is at most 0"),
        ({"logprobs": {4: -np.inf}}, InputError, r"logprobs\[(\d+), \d+\] is -inf"),
        ({"ref_logprobs": {4: -9999.0}}, InputError, r"ref_logprobs\[(\d+), \d+\] is -9999"),
    ],
    ids=["nan", "positive", "excluded", "sentinel"],
)
def test_a_wrong_number_is_named_by_its_row(change: Any, error: type[Exception], words: str) -> None:
    columns = drawn(8)
    for name, at in change.items():
        columns[name][list(at)] = list(at.values())
    with pytest.raises(error, match=words) as caught:
        Ragged.of(**columns, first=1000)
    row = int(np.searchsorted(columns["offsets"], 4, side="right")) - 1
    assert f"[{1000 + row}, {4 - columns['offsets'][row]}]" in str(caught.value)


def test_columns_that_do_not_fit_are_refused() -> None:
    columns = drawn(9)
    for wrong in ([0, 3], [0, 5, 3, columns["offsets"][-1]], [1, columns["offsets"][-1]]):
        with pytest.raises(ShapeError, match="offsets rise from 0"):
            Ragged.of(**columns | {"offsets": np.array(wrong)})
    with pytest.raises(ShapeError, match="ref_logprobs has shape"):
        Ragged.of(**columns | {"ref_logprobs": columns["ref_logprobs"][1:]})


@settings(deadline=None)
@given(st.floats(1e-12, 700.0), st.integers(0, 2**32 - 1), st.booleans())
def test_the_gap_has_no_cancellation(largest: float, seed: int, heavy: bool) -> None:
    x = np.random.default_rng(seed).uniform(-largest, largest, size=200)
    if heavy:
        x = np.sign(x) * np.abs(x) ** 9 / largest**8
    np.testing.assert_allclose(exp_gap(x), divergences.exp_gap(x), rtol=2e-13)


SPANNED = (
    *((name, beside) for name in ("k1", "k3") for beside in ((), ("mask",), ("mask", "behavior_logprobs"))),
    ("rao_blackwell", ("mask", "token_kl")),
)


@pytest.mark.parametrize(("name", "beside"), SPANNED, ids=str)
def test_rows_within_spans_of_positions_are_those_of_padded_rows(name: str, beside: tuple[str, ...]) -> None:
    columns = drawn(11, rows=70, beside=beside)
    spans = [slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 8), slice(8, 16), slice(16, 32)]
    estimator = kb.ESTIMATORS[name]
    ragged = Ragged.of(**columns)
    [block] = ragged.blocks()
    for mine, span in zip(Rows.by_span(ragged, estimator, spans), spans, strict=True):
        wanted = Rows.of(block, estimator, span)
        for field in fields(Rows):
            np.testing.assert_allclose(getattr(mine, field.name), getattr(wanted, field.name), rtol=1e-12, atol=1e-15)
    assert len(Rows.by_span(ragged, estimator, spans)[-1]) == 0


def batch_totals(batch: Sequences, estimator: kb.Estimator) -> np.ndarray:
    return kb.Accumulator.update_together([kb.Accumulator(estimator=estimator)], batch)[0]


@pytest.mark.parametrize("beside", [(), ("groups",), ("behavior_logprobs", "mask"), ("token_kl", "groups")], ids=str)
@pytest.mark.parametrize("rows", [40, 1500])
def test_accumulators_together_hold_what_each_by_itself_does(rows: int, beside: tuple[str, ...]) -> None:
    """To the last digit, infinite rows too, in one batch or several."""
    names = ("k3", "k1", "control_variate", *(("rao_blackwell",) if "token_kl" in beside else ()))
    made = [(name, unit) for name in names for unit in ("sequence", "token")]
    together, alone = ([kb.Accumulator(estimator=name, unit=unit) for name, unit in made] for _ in range(2))
    for seed in (3, 4):
        batch = Sequences.of(**padded(drawn(seed, rows, beside=beside)))
        totals, values = kb.Accumulator.update_together(together, batch, beside=[kb.K1])
        assert len(totals) == len(values) == int(batch.mask.any(axis=1).sum())
        np.testing.assert_array_equal(values, batch_totals(batch, kb.K1))
        for one in alone:
            one.update(batch)
        for mine, other in zip(together, alone, strict=True):
            assert mine.result() == other.result()
            assert mine.value == other.result().value
            assert pickle.dumps(mine.state()) == pickle.dumps(other.state())
    assert totals.sum() > 0


def test_a_value_without_its_error_is_infinite_too() -> None:
    columns = padded(drawn(5))
    columns["ref_logprobs"][3][0] = -np.inf
    found = kb.Accumulator(estimator="k1").update(Sequences.of(**columns))
    assert found.value == np.inf == found.result().value
    with pytest.raises(InputError, match="no sequence was added"):
        _ = kb.Accumulator(estimator="k1").value
