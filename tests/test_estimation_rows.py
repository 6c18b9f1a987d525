"""Single sequences, kept to be grouped: end to end as padded, and together as an accumulator has them."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest

import kullback as kb
from kullback.estimation import Ragged, rows
from kullback.estimation.rows import Rows

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(0, 9, 200)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
Q, P = -RNG.exponential(size=(2, OFFSETS[-1]))
MASK = RNG.random(OFFSETS[-1]) > 0.3
MASK[:20] = False  # rows without a counted token come first


@pytest.mark.parametrize("stretch", [1 << 16, 40])
@pytest.mark.parametrize("estimator", [kb.K1, kb.K3])
def test_end_to_end_as_padded(monkeypatch: pytest.MonkeyPatch, stretch: int, estimator: kb.Estimator) -> None:
    monkeypatch.setattr(rows, "STRETCH", stretch)
    p = np.where(np.arange(len(P)) == 50, -np.inf, P)
    ragged = Ragged.of(Q, p, OFFSETS, mask=MASK)
    parts = [rows._rows(block, estimator, slice(None)) for block in ragged.blocks()]
    before = accumulate([0, *(count for count, _ in parts)])
    padded = Rows.joined([replace(part, number=part.number + n) for n, (_, part) in zip(before, parts, strict=False)])
    for name, values in vars(Rows.of(ragged, estimator)).items():
        np.testing.assert_allclose(values, getattr(padded, name), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_together_as_an_accumulator_has_them(unit: str) -> None:
    groups = np.arange(len(LENGTHS)) // 4
    ragged = Ragged.of(Q, P, OFFSETS, mask=MASK, groups=groups)
    whole = kb.Accumulator(estimator=kb.K3, unit=unit).update(ragged).result()  # type: ignore[arg-type]
    single = Rows.of(ragged, kb.K3)
    found = single.estimate(kb.K3, unit, groups[single.number])  # type: ignore[arg-type]
    assert (found.value, found.stderr) == (pytest.approx(whole.value), pytest.approx(whole.stderr))
    assert found.given_prompts is not None
    assert whole.given_prompts is not None
    assert found.given_prompts.stderr == pytest.approx(whole.given_prompts.stderr)
    assert [one.row for one in found.influential] == [one.row for one in whole.influential]
