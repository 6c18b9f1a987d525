"""Every claim's verdict is what its computation returns, in every world, and what it shows is so."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from kullback import CLAIMS, claims
from kullback.claims import Claim, Evidence, Role, Verdict, judged
from kullback.claims.record import Sampled, decisive, instead, realistic, smallest, stated, within

every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=CLAIMS.names)
WORLDS = 10


@functools.cache
def evidence(claim: Claim, seed: int = 0) -> tuple[Evidence, ...]:
    """The numbers, computed once for all tests."""
    return claim.evidence(seed)


def printed(code: str) -> str:
    """What a piece of code writes."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue()


@every_claim
def test_the_verdict_is_what_the_computation_returns(claim: Claim) -> None:
    for seed in range(WORLDS if claim.general else 1):
        assert judged(evidence(claim, seed)) is claim.verdict, [str(f) for f in evidence(claim, seed)]


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.verdict is Verdict.FAILS], ids=lambda c: c.id)
def test_what_fails_fails_in_every_number_and_world(claim: Claim) -> None:
    for seed in range(WORLDS if claim.general else 1):
        held = [str(f) for f in evidence(claim, seed) if f.role in (Role.STATED, Role.SMALLEST) and f.holds]
        assert not held


@every_claim
def test_what_holds_besides_holds(claim: Claim) -> None:
    for seed in range(WORLDS if claim.general else 1):
        wrong = [str(f) for f in evidence(claim, seed) if f.role is Role.INSTEAD and not f.holds]
        assert not wrong


@every_claim
def test_five_lines_print_the_number_that_the_verdict_rests_on(claim: Claim) -> None:
    assert len(claim.code.splitlines()) <= 5
    assert max(map(len, claim.code.splitlines())) <= 120
    assert prints_one_of(printed(claim.code), decisive(evidence(claim))), printed(claim.code)


def prints_one_of(text: str, numbers: Iterable[Evidence]) -> bool:
    """Whether the first number of a text is one of these, to as many digits as it is printed with."""
    first = re.search(r"(?<![\w.])-?(?:inf|\d+\.?\d*(?:e[+-]?\d+)?)(?!\w)", text)
    return first is not None and any(_same(first.group(), number.computed) for number in numbers)


def _same(text: str, value: float) -> bool:
    if "inf" in text or math.isinf(value):
        return float(text) == value
    mantissa, _, exponent = text.partition("e")
    digits = len(mantissa.replace(".", "").lstrip("-0"))
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    # Few digits are of a round number, which has to be met exactly: "0.0" is not the way to print 0.04.
    return abs(float(text) - value) <= (0.51 * last if digits >= 3 else 1e-6 * max(abs(value), 1e-3))


@every_claim
def test_five_lines_compute(claim: Claim) -> None:
    assert re.search("kullback|numpy|scipy|torch", claim.code) or "arithmetic" in claim.meant


SAID = {"stated", "smallest", "within", "instead", "realistic", "say"}


@pytest.mark.parametrize("module", sorted(Path(claims.__path__[0]).glob("*.py")), ids=lambda path: path.stem)
def test_no_number_is_typed_where_one_is_to_be_computed(module: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    said = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in SAID and len(call.args) > 1]
    assert not [ast.unparse(call) for call in said if _is_typed(call.args[1])]


def _is_typed(number: ast.expr) -> bool:
    return not any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(number))


PRINTED = (
    ("0.192745", 0.1927448, True),
    ("0.192745 0.5", 0.5, False),
    ("0.0", 1e-17, True),
    ("0.0", 0.04, False),
    ("1.0", 0.96, False),
    ("6.74e-07 against 0.0148", 6.738e-7, True),
    ("k3: 20.0", 20.0, True),
    ("k3: 20.0", 3.0, False),
    ("inf 0.5", math.inf, True),
    ("no number", 0.0, False),
)


@pytest.mark.parametrize(("text", "value", "same"), PRINTED)
def test_a_printed_number_is_held_to_its_digits(text: str, value: float, same: bool) -> None:
    assert prints_one_of(text, [stated("x", value, "=", value)]) is same


def test_a_verdict_rests_on_what_is_not_as_stated() -> None:
    wrong, right, besides = stated("x", 1.0, "=", 2.0), stated("y", 3.0, "=", 3.0), instead("z", 0.0, "=", 0.0)
    assert decisive([wrong, right, besides]) == (wrong,)
    assert decisive([right, besides]) == (right,)
    assert decisive([besides]) == (besides,)


@every_claim
def test_a_failure_shows_a_counterexample_its_size_and_what_repairs_it(claim: Claim) -> None:
    roles = {number.role for number in evidence(claim)}
    if claim.verdict is Verdict.FAILS:
        assert claim.by_hand
        assert claim.condition
        assert any(f.role is Role.SMALLEST and not f.holds for f in evidence(claim))
        assert Role.REALISTIC in roles
    if claim.verdict is Verdict.CONDITION:
        assert claim.condition
        assert Role.WITHIN in roles
    if claim.verdict is Verdict.UNDECIDED:
        assert Role.INSTEAD in roles


@every_claim
def test_a_record_is_complete(claim: Claim) -> None:
    source = claim.source.source.key.removesuffix("-notes")  # an id outlives the finding that only notes say it
    assert re.fullmatch(rf"{source}-[A-Za-z0-9-]+", claim.id)
    for text in (claim.statement, claim.why, claim.condition, claim.meant, claim.by_hand):
        assert not text or text.endswith((".", "?"))


def test_evidence_answers_to_its_name_before() -> None:
    claim = CLAIMS["schulman-k1-unbiased"]
    assert claim.findings(seed=7) == claim.evidence(seed=7)


def test_there_are_enough_and_none_twice() -> None:
    assert len(set(CLAIMS.names)) == len(CLAIMS) >= 80
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.verdict for claim in CLAIMS} == set(Verdict)


DOCUMENTS = ("000", "001", "002", "003", "004")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_document_is_read(document: str) -> None:
    own = [claim for claim in CLAIMS if claim.source.source.key == document]
    also = [claim for claim in CLAIMS if document in claim.sources[1:]]
    assert own
    assert len(own) + len(also) >= 5


NEAR_ENOUGH = (
    ([stated("x", 1.0, "=", 1.0 + 1e-12)], Verdict.HOLDS),
    ([stated("x", 1.0, "=", 1.1)], Verdict.FAILS),
    ([stated("x", 1.0, "=", 1.1, tolerance=0.11)], Verdict.HOLDS),
    ([stated("x", 1.0, "=", 1.1), within("x", 1.0, "=", 1.0)], Verdict.CONDITION),
    ([stated("x", 1.0, "=", 1.1), within("x", 1.0, "=", 1.1)], Verdict.FAILS),
    ([stated("x", 1.0, "≠", 1.0)], Verdict.FAILS),
    ([stated("x", 1.0, "<", 1.0)], Verdict.FAILS),
    ([stated("x", 1.0, "≤", 1.0)], Verdict.HOLDS),
    ([stated("x", math.inf, ">", 1.0)], Verdict.HOLDS),
    ([stated("x", 1.1, ">", 1.0, error=0.2)], Verdict.FAILS),
    ([stated("x", Sampled(1.1, error=0.2), ">", 1.0)], Verdict.FAILS),
    ([stated("x", Sampled(1.1, error=0.2), "=", 1.0)], Verdict.HOLDS),
    ([smallest("x", 1.0, "=", 2.0), stated("x", 1.0, "=", 1.0)], Verdict.FAILS),
    ([instead("x", 1.0, "=", 1.0)], Verdict.UNDECIDED),
    ([realistic("x", 1.0, "=", 2.0)], Verdict.UNDECIDED),
)


@pytest.mark.parametrize(("evidence", "verdict"), NEAR_ENOUGH)
def test_verdicts_follow_from_numbers(evidence: list[Evidence], verdict: Verdict) -> None:
    assert judged(evidence) is verdict


def test_the_printed_numbers_of_the_literature() -> None:
    """Numbers that the literature prints, or that stand in for it, come out of claims."""
    computed = [f.computed for claim in CLAIMS for f in evidence(claim)]
    for number, digits in PUBLISHED:
        assert any(abs(number - value) <= 0.51 * 10.0**-digits for value in computed), number


PUBLISHED = (
    *((x, 2) for x in (20.0, 1.42, 2.0, 1.73, 1.7)),
    *((x, 4) for x in (0.0025, 0.25)),
    *((x, 5) for x in (2.39545, 3.31591, 5.06974, 1.71825, 2.94458, 0.00225)),
    *((x, 4) for x in (0.1449, 0.0103, 0.1968, 0.1124, 0.2749, 0.6791, 1.1344)),
    *((x, 6) for x in (0.192745, 1.386294, 1.875, 2.386294, 0.875, 0.581977, 1.5)),
    *((x, 6) for x in (0.529493, 0.826694, 0.355408, 0.502321, 0.052949, 0.163805)),
    *((x, 3) for x in (0.628, 0.618, 3.194)),
    (1.0722, 4),
)
