"""Two Gaussians: closed forms against integrals, samples and what Schulman printed."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kullback import lab
from kullback.errors import InputError
from kullback.lab.gaussian_tables import NAMES, PUBLISHED


@pytest.mark.parametrize(("shift", "name"), PUBLISHED)
def test_schulmans_tables_to_the_printed_digits(shift: float, name: str) -> None:
    (pair,) = lab.gaussian([shift], samples=10).pairs
    row = pair.rows[NAMES.index(name)]
    bias, stdev = PUBLISHED[shift, name]
    assert row.published == (bias, stdev)
    digits = len(f"{stdev:g}".partition(".")[2])
    assert round(row.stdev, digits) == stdev
    if (shift, name) == (0.1, "k2"):
        assert row.bias == pytest.approx(0.0025, abs=1e-12)  # printed as 0.002
    else:
        assert row.bias == pytest.approx(bias, abs=1e-12)


@settings(max_examples=6, deadline=None)
@given(shift=st.floats(-2, 2), scale=st.floats(0.4, 1.3))
def test_closed_forms_are_the_integrals(shift: float, scale: float) -> None:
    q, p = stats.norm(0, 1), stats.norm(shift, scale)
    if abs(shift) < 0.05 and abs(scale - 1) < 0.05:
        return

    def mean(function: object) -> float:
        def integrand(x: float) -> float:
            return q.pdf(x) * function(q.logpdf(x) - p.logpdf(x))  # type: ignore[operator]

        return float(integrate.quad(integrand, -30, 30, limit=400, points=[-2, 0, 2])[0])

    (pair,) = lab.gaussian([shift], scale=scale, samples=10).pairs
    kl = mean(lambda x: x)
    assert pair.kl == pytest.approx(kl, abs=1e-9)
    assert pair.chi2 == pytest.approx(mean(lambda x: np.expm1(-x) ** 2), rel=1e-6)
    assert pair.negative == pytest.approx(_chance(q, p), abs=1e-3)
    functions = {
        "k1": lambda x: x,
        "k2": lambda x: x * x / 2,
        "k3": lambda x: np.expm1(-x) + x,
        NAMES[3]: lambda x: x + pair.coefficient * np.expm1(-x),
    }
    for row in pair.rows:
        k = functions[row.estimator]
        first = mean(k)
        assert row.bias == pytest.approx(first / kl - 1, abs=1e-7 / kl)
        assert row.stdev * kl == pytest.approx(sqrt(mean(lambda x, k=k, m=first: (k(x) - m) ** 2)), rel=1e-5)


def _chance(q: object, p: object) -> float:
    x = np.linspace(-12, 12, 40_001)
    return float(np.mean(q.pdf(x) * (q.logpdf(x) < p.logpdf(x))) * 24)  # type: ignore[attr-defined]


def test_sampling_agrees_with_the_closed_form() -> None:
    for pair in lab.gaussian([0.1, 1.0], samples=400_000, seed=3).pairs:
        for row in pair.rows:
            assert abs(row.sampled_bias - row.bias) < 5 * row.sampled_bias_stderr
            assert row.sampled_stdev == pytest.approx(row.stdev, rel=0.02)


def test_crossovers_solve_their_equations() -> None:
    found = lab.gaussian(samples=10).crossovers
    x = 2 * found["k3"]
    assert np.expm1(x) == pytest.approx(2 * x, rel=1e-9)
    assert found["k3"] == pytest.approx(0.628, abs=5e-4)
    assert 2 * found["k2"] == pytest.approx(sqrt(5) - 1, rel=1e-9)


def test_k3_has_no_variance_from_scale_root_two_on() -> None:
    below, above = (lab.gaussian([0.5], scale=s, samples=10).pairs[0] for s in (sqrt(2) - 1e-3, sqrt(2) + 1e-3))
    assert np.isfinite(below.chi2)
    assert (above.chi2, above.coefficient, above.rows[2].stdev) == (np.inf, 0.0, np.inf)
    assert np.isfinite(above.rows[0].stdev)
    assert above.rows[3].stdev == above.rows[0].stdev


def test_the_sample_sd_of_8_8_estimates_an_infinite_number() -> None:
    """arXiv 2510.01555 compares N(0.1, 0.2²) with N(0, 1): shift −0.5, scale 5 in units of the first."""
    (pair,) = lab.gaussian([-0.1 / 0.2], scale=1 / 0.2, samples=10).pairs
    assert pair.kl == pytest.approx(-log(0.2) + (0.2**2 + 0.1**2 - 1) / 2, abs=1e-12)
    assert pair.rows[0].stdev * pair.kl == pytest.approx(0.679, abs=5e-4)
    assert np.isinf(pair.rows[2].stdev)


def test_gaussian_refuses_what_has_no_answer() -> None:
    for arguments in ({"scale": 0.0}, {"shifts": []}, {"samples": 1}, {"shifts": [0.0]}):
        with pytest.raises(InputError):
            lab.gaussian(**arguments)  # type: ignore[arg-type]
