"""Directions and constants of gradients, against what records promise and what scores say."""

from __future__ import annotations

import numpy as np
import pytest

import kullback as kb
from kullback import lab
from kullback.errors import InputError
from kullback.oracle import reference_world
from kullback.oracle.loss_gradients import gradient_of


@pytest.fixture(scope="module")
def found_gradients() -> lab.Gradients:
    return lab.gradients([1.5], surrogates=kb.SURROGATES.names)


def test_directions_are_those_that_records_promise(found_gradients: lab.Gradients) -> None:
    for row in found_gradients.directions:
        if row.follows == "reverse_kl":
            assert row.error < 1e-9, row
            assert row.scale == pytest.approx(1.0)
        else:
            assert row.error > 1e-3, row
        if row.follows == "zero":
            assert np.isnan(row.angle)
    assert {row.way for row in found_gradients.directions} > set(kb.SURROGATES.names)


def test_off_policy_only_kl_loss_keeps_the_direction(found_gradients: lab.Gradients) -> None:
    right = {row.way for row in found_gradients.directions if row.staleness and row.error < 1e-9}
    assert right == {"kl_loss, k1", "kl_loss, k3", "kl_loss, rao_blackwell"}


def test_the_best_constant_is_its_formula(found_gradients: lab.Gradients) -> None:
    at = reference_world(1.5, torch=True)
    columns = at.policy.sequence_logprobs
    scores = np.stack([gradient_of(columns[i], at.policy.logits).ravel() for i in range(len(columns))])
    chance, size = at.probability.detach().numpy(), (scores**2).sum(axis=1)
    ell = (at.policy.sequence_logprobs - at.reference.sequence_logprobs).detach().numpy()
    best = -(chance @ (ell * size)) / (chance @ size)
    row = found_gradients.constants[0]
    assert row.best == pytest.approx(best, rel=1e-9)
    mean = chance @ (ell[:, None] * scores)
    for c, variance in ((best, row.at_best), (0.0, row.at_zero), (1.0, row.at_one), (-row.kl, row.at_mean)):
        want = (chance @ ((c + ell) ** 2 * size) - mean @ mean) / (mean @ mean)
        assert variance == pytest.approx(float(want), rel=1e-9)
    assert row.at_best <= min(row.at_zero, row.at_one, row.at_mean)


def test_gradients_refuses_what_has_no_direction() -> None:
    with pytest.raises(InputError, match="must be positive"):
        lab.gradients([0.0])
    with pytest.raises(InputError, match="must be positive"):
        lab.gradients(staleness=0.0)
