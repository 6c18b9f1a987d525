"""One pass of compiled code: sums, tails and places as NumPy finds them, from tiny log-ratios to large ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_ragged import agree, drawn

import kullback as kb
from kullback.estimation import Ragged, fused, tails
from kullback.estimation.gaps import exp_gap
from kullback.estimation.summary import EXTREMES

ESTIMATORS = ("k1", "k2", "k3", "control_variate", "squared_hellinger")


@pytest.fixture(params=["as Python", pytest.param("compiled", marks=pytest.mark.slow)])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first token on; by the same loops before they are compiled, too."""
    monkeypatch.setattr(fused, "WORTH", 0)
    if request.param == "as Python":
        loops = fused._Loops(fused._sums, fused._places, fused._beyond)
        monkeypatch.setattr(fused, "_compiled", lambda: loops)
    else:
        pytest.importorskip("numba")


@pytest.mark.parametrize("beside", [(), ("mask",), ("groups",), ("mask", "groups")], ids=str)
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
    wanted = (x, exp_gap(x), x * x)
    for sums, values in zip((found.x, found.gap, found.squares), wanted, strict=True):
        np.testing.assert_allclose(sums, np.add.reduceat(values, starts), rtol=1e-12)
    assert found.most.tolist() == np.maximum.reduceat(x, starts).tolist()
    assert found.least.tolist() == np.minimum.reduceat(x, starts).tolist()


def test_what_is_infinite_takes_the_padded_way(at_once: None) -> None:
    columns = drawn(5)
    columns["ref_logprobs"][7] = -np.inf
    mine = kb.Accumulator(estimator="k1").update(Ragged.of(**columns)).result()
    assert mine.value == np.inf


def test_compiled_code_begins_with_the_token_that_repays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = fused._Loops(fused._sums, fused._places, fused._beyond)
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
