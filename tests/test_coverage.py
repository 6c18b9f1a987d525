"""Intervals cover the truth as often as they say, and come with a warning where they do not."""

from __future__ import annotations

import pytest

from benchmarks.coverage import Case, cases, measure


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_coverage(case: Case) -> None:
    """2,000 replications: a Monte Carlo error of 0.5 points."""
    for row in measure(case, 2000, 512):
        if row.quiet > 0.9 * row.replications:
            assert 0.93 <= row.rate <= 0.97 or row.rate == 1.0, row  # 1: exact on a world of one token
        else:
            assert row.quiet < 0.25 * row.replications, row


@pytest.mark.parametrize("case", cases()[1:2], ids=lambda case: case.name)
def test_coverage_at_a_glance(case: Case) -> None:
    """120 replications: 95% ± 6 points at three standard errors."""
    for row in measure(case, 120, 256):
        if not case.heavy:
            assert row.covered / row.replications > 0.88, row
        elif "rao" not in row.estimator:
            assert row.quiet < 0.1 * row.replications, row
