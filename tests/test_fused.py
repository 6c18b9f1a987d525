"""One pass of compiled code: sums, tails and places as NumPy finds them, from tiny log-ratios to large ones."""

from __future__ import annotations

import numpy as np
import pytest
from test_ragged import agree, drawn

import kullback as kb
from kullback.estimation import Ragged, fused
from kullback.estimation.gaps import exp_gap

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


def test_few_tokens_are_left_to_numpy() -> None:
    q = np.zeros(8)
    assert fused.fused_sums(q, q, np.array([0])) is None or fused._SEEN.tokens >= fused.WORTH
