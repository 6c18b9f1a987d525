"""Ways of choosing λ, against every ordered batch."""

from __future__ import annotations

import numpy as np
import pytest

import kullback as kb
from kullback import lab
from kullback.errors import InputError
from kullback.oracle import reference_world, relative_variance


def left_out(batch: tuple[np.ndarray, np.ndarray], ridge: float) -> float:
    """λ of every draw by least squares on the two others."""
    ell, h = batch
    values = []
    for i in range(len(ell)):
        x, y = np.delete(ell, i), np.delete(h, i)
        second = y @ y * (1 + ridge / len(y))
        values.append(ell[i] - (x - x.mean()) @ y / second * h[i] if second else ell[i])
    return float(np.mean(values))


def test_enumerated_batches_are_those_in_order() -> None:
    """Bias and gain of every way at n = 3, by going through all 27 ordered batches; the last one by kb.estimate."""
    q, p = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    found = {choice.way: choice for choice in lab.coefficients(sizes=[3]).choices}
    batches = np.array(list(np.ndindex(3, 3, 3)))
    chance = q[batches].prod(axis=1)
    ell, h = np.log(q / p)[batches], (p / q - 1)[batches]

    def plugged(coefficient: np.ndarray) -> np.ndarray:
        return np.mean(ell + np.nan_to_num(coefficient)[:, None] * h, axis=1)

    with np.errstate(invalid="ignore"):
        values = {
            "0 (k1)": ell.mean(axis=1),
            "1 (k3)": (ell + h).mean(axis=1),
            "λ* = J/χ²": plugged(np.full(27, float(((p - q) @ np.log(p / q)) / ((p - q) ** 2 / q).sum()))),
            "J/χ², same batch": plugged(-(ell * h).sum(axis=1) / (h**2).sum(axis=1)),
            "least squares, same batch": plugged(
                -((ell - ell.mean(axis=1, keepdims=True)) * h).sum(axis=1) / (h**2).sum(axis=1)
            ),
            "leave-one-out": np.array([left_out(batch, 0.0) for batch in zip(ell, h, strict=True)]),
            "leave-one-out, ridge": np.array(
                [
                    kb.estimate(
                        np.log(q)[batch][:, None], np.log(p)[batch][:, None], estimator=kb.ControlVariate("fit")
                    ).value
                    for batch in batches
                ]
            ),
        }
    kl = float(q @ np.log(q / p))
    error = {way: float(chance @ (value - kl) ** 2) for way, value in values.items()}
    for way, value in values.items():
        assert found[way].bias == pytest.approx(float(chance @ value) / kl - 1, abs=1e-12), way
        assert found[way].gain == pytest.approx(error["0 (k1)"] / error[way], rel=1e-9), way


@pytest.mark.parametrize("seed", range(10))
def test_only_same_batch_fits_are_biased(seed: int) -> None:
    q, p = np.random.default_rng(seed).dirichlet(np.full(3, 2.0), size=2)
    for choice in lab.coefficients(q, p, sizes=[2, 7], distances=[]).choices:
        assert (abs(choice.bias) > 1e-9) == ("same batch" in choice.way), choice


def test_finer_coefficients_never_lose() -> None:
    for gain in lab.coefficients(sizes=[2]).gains:
        assert gain.by_prefix <= gain.by_position <= gain.shared <= min(1.0, gain.k3) + 1e-12
        assert gain.sequence <= 1.0
    at = reference_world(0.5)
    exact = relative_variance(at, kb.ControlVariate("fit"), "token") / relative_variance(at, kb.K1, "token")
    assert lab.coefficients(sizes=[2], distances=[0.5]).gains[0].shared == pytest.approx(exact, rel=1e-9)


def test_coefficients_refuse_what_cannot_be_enumerated() -> None:
    for arguments, words in (
        ({"sizes": [1]}, "at least 2 draws"),
        ({"policy": [0.1] * 10, "reference": [0.1] * 10}, "the same"),
        ({"policy": [0.05, 0.15] * 5, "reference": [0.1] * 10, "sizes": [100]}, "different batches"),
        ({"policy": [0.5, 0.5, 0.5]}, "sum to 1"),
    ):
        with pytest.raises(InputError, match=words):
            lab.coefficients(**arguments)  # type: ignore[arg-type]
