"""One pass of compiled code: sums, tails and places as NumPy finds them, from tiny log-ratios to large ones."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from test_ragged import agree, drawn

import kullback as kb
from kullback.errors import InputError
from kullback.estimation import Ragged, fused, tails
from kullback.estimation.gaps import exp_gap
from kullback.estimation.summary import EXTREMES

ESTIMATORS = ("k1", "k2", "k3", "pearson_chi2", "control_variate", "squared_hellinger")


@pytest.fixture(params=["as Python", pytest.param("compiled", marks=pytest.mark.slow)])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first token on; by the same loops before they are compiled, too."""
    monkeypatch.setattr(fused, "WORTH", 0)
    if request.param == "as Python":
        loops = fused._Loops.of(lambda loop, math: loop)
        monkeypatch.setattr(fused, "_compiled", lambda: loops)
    else:
        pytest.importorskip("numba")


@pytest.mark.parametrize(
    "beside",
    [(), ("mask",), ("groups",), ("mask", "groups"), ("behavior_logprobs",), ("behavior_logprobs", "mask", "groups")],
    ids=str,
)
@pytest.mark.parametrize("scale", [1e-9, 0.1, 5.0])
def test_estimates_are_numpys(
    scale: float, beside: tuple[str, ...], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = drawn(3, rows=60, scale=scale, beside=beside)
    accumulators = [[kb.Accumulator(estimator=name) for name in ESTIMATORS] for _ in range(2)]
    singles = []
    for worth, some in zip((0, 1 << 60), accumulators, strict=True):
        monkeypatch.setattr(fused, "WORTH", worth)
        singles.append(kb.Accumulator.update_all(some, Ragged.of(**columns), singles=True))
    for mine, other in zip(*accumulators, strict=True):
        agree(mine.result(), other.result())
    mine, other = singles
    assert mine is not None
    assert other is not None
    assert mine.token.tolist() == other.token.tolist()
    np.testing.assert_allclose(mine.summand, other.summand, rtol=1e-12)


@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f8", "f8"), ("f4", "f8"), ("f2", "f4")], ids=str)
def test_sums_of_any_dtype(kinds: tuple[str, str], at_once: None) -> None:
    rng = np.random.default_rng(0)
    q = -rng.exponential(size=4000).astype(kinds[0])
    p = -rng.exponential(size=4000).astype(kinds[1])
    starts = np.array([0, 1, 3, 1500])
    found = fused.fused_sums(q, p, starts)
    x = p.astype(np.float64) - q.astype(np.float64)
    assert found is not None
    wanted = (x, exp_gap(x), x * x, np.expm1(x) ** 2)
    for sums, values in zip((found.x, found.gap, found.squares, found.excess_squares), wanted, strict=True):
        np.testing.assert_allclose(sums, np.add.reduceat(values, starts), rtol=1e-12)
    assert found.most.tolist() == np.maximum.reduceat(x, starts).tolist()
    assert found.least.tolist() == np.minimum.reduceat(x, starts).tolist()


@pytest.mark.parametrize("kinds", [("f4", "f4", "f4"), ("f8", "f4", "f2")], ids=str)
def test_weighted_sums_of_any_dtype(kinds: tuple[str, ...], at_once: None) -> None:
    rng = np.random.default_rng(0)
    q, p, mu = (-rng.exponential(size=9000).astype(kind) for kind in kinds)
    starts = np.array([0, 1, 3, 1500, 8990])
    found = fused.weighted_sums(q, p, mu, starts)
    assert found is not None
    for row, (start, end) in enumerate(pairwise([*starts.tolist(), len(q)])):
        ours, theirs, drew = (each[start:end].astype(np.float64) for each in (q, p, mu))
        x, total = theirs - ours, np.cumsum(ours - drew)
        w = np.where(total > fused.LOWEST, np.exp(total), 0.0)
        ratio = w * np.expm1(x) + np.diff(w, prepend=1.0)
        wanted = [x.sum(), x.max(), w @ x, w @ exp_gap(x), w @ (x * x), ratio.sum(), w.sum(), w[-1], total[-1]]
        mine = [getattr(found, one.name)[row] for one in fields(found)]
        np.testing.assert_allclose(mine, [*wanted, total.max()], rtol=1e-12, atol=1e-13 * w.sum())


def test_a_weight_that_floats_do_not_hold_is_none(at_once: None) -> None:
    q, drew = np.array([-800.0, -0.25, -300.0, -300.0]), np.array([-0.5, -0.25, -0.5, -300.0])
    found = fused.weighted_sums(q, q, drew, np.array([0, 2]))
    assert found is not None
    assert found.whole.tolist() == pytest.approx([0.0, np.exp(-299.5)], rel=1e-13, abs=0.0)
    assert found.log_weight.tolist() == [-799.5, -299.5]
    assert found.weight[0] == 0.0


@pytest.mark.parametrize("kind", ["heavy", "infinite"])
def test_weights_beyond_all_bounds_are_refused_as_by_numpy(
    kind: str, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = drawn(5, beside=("behavior_logprobs",))
    columns["behavior_logprobs"][3:9] = -80.0
    if kind == "infinite":
        columns["logprobs"][7] = -np.inf
    said = []
    for worth in (0, 1 << 60):
        monkeypatch.setattr(fused, "WORTH", worth)
        with pytest.raises(InputError) as caught:
            kb.Accumulator(estimator="k1").update(Ragged.of(**columns))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_what_is_infinite_takes_the_padded_way(at_once: None) -> None:
    columns = drawn(5)
    columns["ref_logprobs"][7] = -np.inf
    mine = kb.Accumulator(estimator="k1").update(Ragged.of(**columns)).result()
    assert mine.value == np.inf


def test_compiled_code_begins_with_the_token_that_repays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = fused._Loops.of(lambda loop, math: loop)
    monkeypatch.setattr(fused, "_compiled", lambda: loops)
    monkeypatch.setattr(fused, "WORTH", 20)
    monkeypatch.setattr(fused, "_SEEN", fused._Seen())
    columns = drawn(3, rows=2, beside=())
    tokens = len(columns["logprobs"])
    assert tokens < 20 <= 2 * tokens
    seen = []
    for _ in range(2):
        kb.Accumulator(estimator="k1").update(Ragged.of(**columns))
        seen.append(fused.fused_sums(columns["logprobs"], columns["ref_logprobs"], columns["offsets"][:-1]) is not None)
    assert seen == [False, True]


@pytest.mark.parametrize("worth", [0, 1 << 60], ids=["at once", "by NumPy"])
@pytest.mark.parametrize("beside", [(), ("groups",), ("behavior_logprobs", "mask")], ids=str)
def test_a_stream_in_pieces_remembers_what_one_pass_does(
    worth: int, beside: tuple[str, ...], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tails and extremes of a piece are looked for above what is known only: nothing may be missed for that."""
    monkeypatch.setattr(fused, "WORTH", worth)
    monkeypatch.setattr(tails, "KEPT", 50)
    columns = drawn(8, rows=400, scale=0.7, beside=beside)
    whole, pieces = ([kb.Accumulator(estimator=name) for name in ESTIMATORS] for _ in range(2))
    kb.Accumulator.update_all(whole, Ragged.of(**columns))
    for first in range(0, 400, 37):
        kb.Accumulator.update_all(pieces, Ragged.of(**some_of(columns, slice(first, min(first + 37, 400)))))
    for mine, other in zip(pieces, whole, strict=True):
        agree(mine.result(), other.result())
        np.testing.assert_allclose(
            np.sort(mine._summary.ratios.largest), np.sort(other._summary.ratios.largest), rtol=1e-12
        )
        for kind in EXTREMES:
            found, wanted = (getattr(one._summary, kind) for one in (mine, other))
            assert (found.row.tolist(), found.token.tolist()) == (wanted.row.tolist(), wanted.token.tolist()), kind


def some_of(columns: dict[str, Any], rows: slice) -> dict[str, Any]:
    """Some of the rows."""
    ends = columns["offsets"][rows.start : rows.stop + 1]
    kept = {
        name: values[rows] if name == "groups" else values[ends[0] : ends[-1]]
        for name, values in columns.items()
        if name != "offsets"
    }
    return {**kept, "offsets": ends - ends[0]}
