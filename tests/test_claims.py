"""Every claim's verdict is what its computation returns, in every world, and what it shows is so."""

from __future__ import annotations

import contextlib
import io
import math
import re

import pytest

from kullback import CLAIMS
from kullback.claims import Claim, Role, Verdict

every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=CLAIMS.names)
WORLDS = 10


def printed(code: str) -> str:
    """What a piece of code writes."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue()


@every_claim
def test_the_verdict_is_what_the_computation_returns(claim: Claim) -> None:
    for seed in range(WORLDS if claim.general else 1):
        assert claim.decide(seed) is claim.verdict, [str(f) for f in claim.findings(seed)]


@every_claim
def test_what_holds_besides_holds(claim: Claim) -> None:
    for seed in range(WORLDS if claim.general else 1):
        wrong = [str(f) for f in claim.findings(seed) if f.role is Role.INSTEAD and not f.holds]
        assert not wrong


@every_claim
def test_five_lines_print_a_number_that_the_verdict_rests_on(claim: Claim) -> None:
    assert len(claim.code.splitlines()) <= 5
    assert max(map(len, claim.code.splitlines())) <= 120
    numbers = re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?|-?inf", printed(claim.code))
    known = [finding.computed for finding in claim.findings()]
    assert any(_same(number, value) for number in numbers for value in known), (numbers, known)


def _same(text: str, value: float) -> bool:
    if "inf" in text or math.isinf(value):
        return float(text) == value
    digits = len(text.split("e")[0].partition(".")[2])
    return abs(float(text) - value) <= 0.51 * 10.0**-digits * (10 ** int(text.split("e")[1]) if "e" in text else 1)


@every_claim
def test_a_failure_shows_a_counterexample_its_size_and_what_repairs_it(claim: Claim) -> None:
    roles = {finding.role for finding in claim.findings()}
    if claim.verdict is Verdict.FAILS:
        assert claim.by_hand
        assert claim.condition
        assert any(f.role is Role.SMALLEST and not f.holds for f in claim.findings())
        assert Role.REALISTIC in roles
    if claim.verdict is Verdict.CONDITION:
        assert claim.condition
        assert Role.WITHIN in roles
    if claim.verdict is Verdict.UNDECIDED:
        assert Role.INSTEAD in roles


@every_claim
def test_a_record_is_complete(claim: Claim) -> None:
    assert re.fullmatch(rf"{claim.source.source.key}-[A-Za-z0-9-]+", claim.id)
    for text in (claim.statement, claim.why, claim.condition, claim.meant, claim.by_hand):
        assert not text or text.endswith((".", "?"))


def test_there_are_enough_and_none_twice() -> None:
    assert len(set(CLAIMS.names)) == len(CLAIMS) >= 20
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS)
