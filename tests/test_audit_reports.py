"""A report is of a function that was audited or of one that could not be; its words and pages are made from parts."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

import kullback as kb
from kullback.auditing import Audited, Failed
from kullback.auditing.formula import FORMULAS
from kullback.auditing.options import Options
from kullback.auditing.pages import book, overview
from kullback.auditing.rules import RULES
from kullback.documents import Facts, Heading, Item, Note, Table, Verdict
from kullback.report import markdown


def k1(logprobs, ref_logprobs, mask):
    return logprobs - ref_logprobs


def k3_clamped(logprobs, ref_logprobs, mask):
    return kb.K3((logprobs - ref_logprobs).clamp(-5, 5))


def broken(logprobs, ref_logprobs, mask):
    raise ValueError("no")


def changes_inputs(logprobs, ref_logprobs, mask):
    ref_logprobs -= logprobs
    return -ref_logprobs


@pytest.fixture(scope="module")
def good() -> kb.AuditReport:
    return kb.audit(k1, placement="reward")


@pytest.fixture(scope="module")
def bad() -> kb.AuditReport:
    return kb.audit(k1, placement="loss")


@pytest.fixture(scope="module")
def failed() -> kb.AuditReport:
    return kb.audit(broken, placement="loss")


def test_a_report_is_one_of_two_types(good: kb.AuditReport, failed: kb.AuditReport) -> None:
    assert isinstance(good, kb.AuditReport)
    assert isinstance(good, Audited)
    assert not good.failed
    assert isinstance(failed, kb.AuditReport)
    assert isinstance(failed, Failed)
    assert failed.failed


def test_a_failed_report_can_be_read_and_knows_nothing(failed: kb.AuditReport) -> None:
    assert (failed.value.target, failed.gradient.target, failed.value.relative_error) == (None, None, float("inf"))
    assert (failed.values, failed.gradients, failed.placement) == ({}, {}, "loss")
    assert failed.verdict == "Not audited: the function raised ValueError: no."
    assert failed.instead == "kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)"
    record = failed.to_dict()
    assert [record[name] for name in ("value", "gradient", "formula", "numerics", "treatment")] == [None] * 5


def test_both_kinds_of_report_have_the_same_keys(good: kb.AuditReport, failed: kb.AuditReport) -> None:
    assert list(good.to_dict()) == list(failed.to_dict())
    assert json.loads(json.dumps(good.to_dict(), allow_nan=False))["rows"] == "mean"


@pytest.mark.parametrize("fn", [broken, changes_inputs, lambda q, p: "KL", lambda q, p: (q - p).sum(0)])
def test_what_stops_an_audit_is_a_rule_that_says_so(fn: object) -> None:
    report = kb.audit(fn, placement="metric")
    assert isinstance(report, Failed)
    assert [RULES[finding.code].stops for finding in report.findings] == [True]


def test_no_rule_that_stops_looks_at_a_report(good: kb.AuditReport) -> None:
    assert [rule.code for rule in RULES if rule.stops] == ["KB001", "KB002", "KB003", "KB004"]
    assert all(rule.find(good) == "" for rule in RULES if rule.stops)


def test_facts_have_the_names_that_json_has_for_them() -> None:
    report = kb.audit(k3_clamped, placement="metric")
    assert report.treatment is report.masking
    assert report.behavior is report.weighting
    assert report.to_dict()["clamp"] == [report.form.below.at, report.form.above.at]
    assert report.form.floor == pytest.approx(kb.K3(-5.0), rel=1e-6)


TEXTS = {
    "k1": "ℓ",
    "k2": "½ℓ²",
    "k3": "r − 1 + ℓ",
    "abs": "|ℓ|",
    "k3_upside_down": "1/r − 1 − ℓ",
    "forward_k1": "−rℓ",
    "forward_k3": "1 − r − rℓ",
    "weighted_k1": "ℓ/r",
    "pearson_chi2": "(r − 1)²",
    "neyman_chi2": "(r − 1)²/r",
    "jeffreys": "(1 − r)ℓ",
    "squared_hellinger": "½(√r − 1)²",
    "jensen_shannon": "½[r log(2r/(1+r)) + log(2/(1+r))]",
    "total_variation": "(1 − r)₊",
    "total_variation_abs": "½|r − 1|",
    "skew_0.1": "−log(1 − β + βr)",
}
"""What reports write, which users and their CI read."""


def test_formulas_are_written_as_reports_always_wrote_them() -> None:
    assert {name: FORMULAS[name].text for name in TEXTS} == TEXTS


@pytest.mark.parametrize("estimator", [e for e in kb.ESTIMATORS if e.name in FORMULAS.names], ids=lambda e: e.name)
def test_every_estimator_of_one_log_ratio_is_named(estimator: kb.Estimator) -> None:
    report = kb.audit(lambda q, p: estimator(q - p), placement="metric")
    assert report.form is not None
    x = np.array([-0.75, 0.25])
    named = report.form.formula
    assert named is not None
    np.testing.assert_allclose(report.form.scale * named.fn(x), estimator.fn(x), rtol=1e-6)


def test_the_family_misses_no_formula() -> None:
    left_out = {e.name for e in kb.ESTIMATORS} - set(FORMULAS.names)
    assert left_out == {"control_variate", "rao_blackwell", "rao_blackwell_controlled", "renyi_2"}


def test_a_verdict_is_the_answer_and_what_to_do(good: kb.AuditReport, bad: kb.AuditReport) -> None:
    assert bad.verdict == f"{bad.answer} Instead: {bad.instead}"
    assert good.verdict == f"{good.answer} Nothing was found against it."
    assert str(bad).splitlines() == [bad.title, bad.verdict, *map(str, bad.findings)]


def test_a_page_says_everything(good: kb.AuditReport, bad: kb.AuditReport, failed: kb.AuditReport) -> None:
    page = bad.document()
    assert page.title == "k1, in the loss"
    assert page.blocks[:2] == (Verdict(f"Wrong. {bad.answer}", "warning"), Note(f"Instead: {bad.instead}", "hint"))
    assert [block.label for block in page.blocks if isinstance(block, Item)] == ["KB201 zero-gradient"]
    facts = dict(next(block for block in page.blocks if isinstance(block, Facts)).rows)
    assert facts["one token's formula"] == "k1: ℓ"
    assert good.document().blocks[0] == Verdict(f"Ok. {good.verdict}", "good")
    text = markdown.render(failed.document())
    assert "**KB001 raises**: The function raised ValueError: no." in text


def test_a_terminal_has_a_table_of_many_and_a_file_has_both(good: kb.AuditReport, bad: kb.AuditReport) -> None:
    few, many = overview([good, bad]), overview([good, bad, good, bad])
    assert [block.text for block in few.blocks if isinstance(block, Heading)] == [good.title, bad.title]
    assert few.tables == ()
    assert [block for block in many.blocks if isinstance(block, Heading)] == []
    assert [row[-1] for row in many.tables[0].rows] == ["none", "KB201", "none", "KB201"]
    assert Facts((("KB201", RULES["KB201"].title),)) in many.blocks
    both = book([good, bad])
    assert isinstance(both.blocks[0], Table)
    assert [block.text for block in both.blocks if isinstance(block, Heading)] == [good.title, bad.title]
    assert book([good]) == overview([good]) == good.document()


def test_options_are_frozen_and_begin_with_a_placement() -> None:
    options = Options(placement="loss")
    with pytest.raises(FrozenInstanceError):
        options.placement = "reward"
    with pytest.raises(TypeError):
        Options()
