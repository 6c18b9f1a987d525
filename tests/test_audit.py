"""The audit names every mistake, finds none in right code, and keeps every promise of the families."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from right_code_styles import OURS, STYLES, ours
from wrong_code import REWARD, RIGHT, WRONG, Case
from wrong_code_batches import BATCHES
from wrong_code_distributions import DISTRIBUTIONS
from wrong_code_rows import IN_PLACE, ROWS
from wrong_code_sizes import FITS, SIZES, Dropped, kept_by_shape
from wrong_code_unusual import UNUSUAL

import kullback as kb
from kullback.auditing.options import SAMPLERS
from kullback.auditing.rules import RULES
from kullback.auditing.worlds import IDENTIFYING, exact
from kullback.estimators import LEVELS, Estimator
from kullback.surrogates import Surrogate
from kullback.targets import TARGETS, Target

SECONDS = 5.0
"""Of CPU time, so that other work on the machine does not count."""
ALL_WRONG = (*WRONG, *BATCHES, *SIZES, *ROWS, *DISTRIBUTIONS)


@pytest.mark.parametrize("case", ALL_WRONG, ids=lambda case: f"{case}-{case.code}")
def test_every_mistake_is_named(case: Case) -> None:
    start = time.process_time()
    report = kb.audit(case.fn, **case.options)
    assert case.code in [finding.code for finding in report.findings], str(report)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("case", [Case(Dropped(), "KB006", REWARD), Case(kept_by_shape, "KB008", REWARD)], ids=str)
def test_what_unsteady_code_shows_on_one_draw_is_no_finding(case: Case) -> None:
    """It may come of the noise: it is named within the one finding, which is as grave."""
    [finding] = kb.audit(case.fn, **case.options).findings
    assert finding.code == case.code
    if "KB1" in finding.message:
        assert finding.severity == "wrong"
        assert finding.message.endswith("may come of it: mend this first, and audit again")


@pytest.mark.parametrize("case", [case for case in ROWS if case.code == "KB116"], ids=str)
def test_what_follows_from_rows_that_are_mixed_up_is_not_said_beside(case: Case) -> None:
    codes = {finding.code for finding in kb.audit(case.fn, **case.options).findings}
    assert not codes & {"KB109", "KB111", "KB206", "KB207"}


@pytest.mark.parametrize(
    "case", [*RIGHT, *STYLES, *FITS, *IN_PLACE], ids=lambda case: f"{case}-{case.options['placement']}"
)
def test_nothing_is_found_in_right_code(case: Case) -> None:
    report = kb.audit(case.fn, **case.options)
    assert [str(finding) for finding in report.findings] == []
    assert report.status == "ok"
    judged = report.value if report.placement == "metric" else report.gradient
    assert judged.target is not None
    assert judged.target is not kb.ZERO


@pytest.mark.parametrize("ours_is", OURS, ids=lambda given: given[0])
def test_nothing_is_found_in_our_own_loss(ours_is: tuple[Any, ...]) -> None:
    _, objective, *others = ours_is
    report = kb.audit(ours(objective, *others), placement="loss", objective=objective)
    assert [str(finding) for finding in report.findings] == []
    assert report.gradient.target is objective


@pytest.mark.parametrize("placement", ["reward", "metric"])
@pytest.mark.parametrize("credit", ["return", "reward_to_go"])
def test_nothing_is_found_in_our_own_reward(placement: Any, credit: Any) -> None:
    report = kb.audit(kb.kl_reward, placement=placement, credit=credit, settings={"estimator": "k1"})
    assert report.findings == ()
    assert report.value.target is kb.REVERSE_KL


def test_there_is_a_mistake_for_every_rule_that_can_be_found() -> None:
    named = {case.code for case in (*ALL_WRONG, *UNUSUAL)}
    calls = {rule.code for rule in RULES if rule.group == "call"}
    combined = {"KB204", "KB206", "KB302", "KB305", "KB507"}
    assert {rule.code for rule in RULES} - calls - combined <= named
    assert len(WRONG) + len(BATCHES) >= 80
    assert len(RIGHT) + len(STYLES) >= 40


@pytest.mark.parametrize(
    ("number", "words"),
    [(2, "several processes"), (3, "on a GPU"), (4, "environment"), (1, "what becomes of the result")],
)
def test_what_was_not_examined_is_said(number: int, words: str) -> None:
    report = kb.audit(FITS[number].fn, placement="reward")
    assert any(words in left_open for left_open in report.to_dict()["unexamined"])


PAD_ID = 50256


def test_numbers_that_code_singles_out_are_said() -> None:
    """None of these is met by a small world: a clean bill that kept silent would be for code that never ran."""

    def k1(logprobs: Any, ref_logprobs: Any, mask: Any, tokens: Any) -> Any:
        x = (logprobs - ref_logprobs) * mask * (tokens != PAD_ID) * (tokens != -100)
        special = [token in (151643, 3) for token in tokens.ravel().tolist()]
        return x.sum(-1) * (2 if x.shape == (1, 31) or sum(special) % 1000 == 999 else 1)

    def by_name(logprobs: Any, ref_logprobs: Any, mask: Any, tokens: Any) -> Any:
        rows = logprobs.shape[0]
        x = (logprobs - ref_logprobs) * mask * tokens.ne(128_009) * (2 if 4096 == rows else 1)  # noqa: SIM300
        return x.sum(-1)

    assert kb.audit(by_name, placement="reward").unexamined[0].endswith(" singles out: 4096, 128009")
    report = kb.audit(k1, placement="reward")
    assert report.findings == ()
    assert "what it does at the numbers that its code singles out: 31, 999, 1000, 50256, 151643" in report.unexamined


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "of a vocabulary of 300,000 words only 1,000 have"),
        (2, "in batches of 64 rows and more a row's result is 2 times"),
        (5, "tokens from number 201 of a row on do not count"),
        (7, "log-prob below −50"),
        (8, "distribution of place t is read at the token of place t + 1"),
        (9, "leaves the formula below ℓ = 0 (constant 0)"),
    ],
)
def test_what_small_worlds_do_not_show_is_said_exactly(number: int, words: str) -> None:
    case = SIZES[number]
    assert any(words in finding.message for finding in kb.audit(case.fn, **case.options).findings)


def same(promised: Target | None, found: kb.AuditReport, kind: str, sampler: str) -> bool:
    """Whether what was found is what is promised; "none" leaves room for a multiple of a target."""
    got = (found.values if kind == "value" else found.gradients)[sampler]
    if promised is None:
        return got.target is None or got.scale != 1.0
    return got.target is first(promised, kind, sampler) and got.scale == 1.0 and got.relative_error < 1e-9


def first(target: Target, kind: str, sampler: str) -> Target:
    """The first of the targets that are one quantity for a sampler, such as statewise and sampled on-policy."""
    for other in TARGETS:
        pairs = ((exact(w, sampler, other, kind), exact(w, sampler, target, kind)) for w in IDENTIFYING)
        if all(abs(a - b).max() <= 1e-9 * max(abs(b).max(), 1e-9) for a, b in pairs):
            return (other.value_of or other) if kind == "value" else other
    raise AssertionError(target)


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", kb.SURROGATES, ids=lambda s: s.name)
@pytest.mark.parametrize("as_loss", [True, False])
def test_every_surrogate_is_what_it_promises(surrogate: Surrogate, as_loss: bool) -> None:
    report = kb.audit(surrogate.fn if as_loss else surrogate, placement="loss" if as_loss else surrogate.placement)
    assert not report.failed
    for sampler in SAMPLERS:
        assert same(surrogate.value_of[sampler], report, "value", sampler), report.values[sampler]
        assert same(surrogate.gradient_of[sampler], report, "gradient", sampler), report.gradients[sampler]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", kb.ESTIMATORS, ids=lambda e: e.name)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("placement", ["loss", "reward"])
def test_every_estimator_is_what_it_promises(estimator: Estimator, level: str, placement: Any) -> None:
    report = kb.audit(estimator, placement="metric" if estimator.controls else placement, level=level)
    assert not report.failed
    assert same(estimator.value_of[level], report, "value", "on_policy"), report.value
    if not estimator.controls:
        promise = estimator.loss_gradient_of if placement == "loss" else estimator.reward_gradient_of
        assert same(promise[level], report, "gradient", "on_policy"), report.gradient


def test_multiples_of_targets_are_found_where_a_promise_says_none() -> None:
    report = kb.audit(kb.SURROGATES["abs_sequence_loss"].fn, placement="loss")
    assert (report.gradient.target, report.gradient.scale) == (TARGETS["total_variation"], 2.0)
    report = kb.audit(kb.SURROGATES["rpg_forward"].fn, placement="loss")
    assert (report.value.target, report.value.scale) == (kb.REVERSE_KL, -1.0)


def test_a_world_tells_every_target_from_every_other() -> None:
    for kind in ("value", "gradient"):
        for one in TARGETS:
            if one.place != "sampled" and (kind == "gradient" or one.value_of is None):
                assert first(one, kind, "on_policy") is one


def test_a_wrong_formula_is_not_called_right() -> None:
    """A penalty that is off by one part in a million is not the KL."""
    report = kb.audit(lambda q, p, m: (q - p) * (1 + 1e-6 * q), placement="metric")
    assert report.value.target is None
    assert report.value.nearest is kb.REVERSE_KL
    assert 0 < report.value.relative_error < 1e-4


def test_errors_grow_with_the_distance() -> None:
    report = kb.audit(kb.K2, placement="metric")
    kls, errors = zip(*report.value.growth, strict=True)
    assert list(kls) == sorted(kls)
    assert errors[0] < errors[-1]


def test_one_token_is_told_from_sequences() -> None:
    report = kb.audit(kb.K2, placement="loss")
    assert report.gradient.target is kb.STATEWISE_REVERSE_KL
    assert report.gradient.one_token is kb.REVERSE_KL
    meant = kb.audit(kb.K2, placement="loss", objective=kb.STATEWISE_REVERSE_KL)
    assert "KB203" not in [finding.code for finding in meant.findings]


@pytest.mark.parametrize("arrays", ["jax", "numpy"])
def test_other_array_libraries(arrays: str) -> None:
    report = kb.audit(lambda q, p: kb.K3(q - p), placement="loss", arrays=arrays)
    assert report.value.target is kb.REVERSE_KL
    assert report.gradient.target is (kb.STATEWISE_FORWARD_KL if arrays == "jax" else kb.ZERO)


def test_functions_that_compute_in_float32_are_identified() -> None:
    report = kb.audit(lambda q, p: kb.K3(q.float() - p.float()), placement="loss")
    assert (report.value.target, report.gradient.target) == (kb.REVERSE_KL, kb.STATEWISE_FORWARD_KL)


def raises(logprobs, ref_logprobs, mask):
    raise RuntimeError("no such thing")


def needs_more(logprobs, ref_logprobs, mask, estimator):
    return logprobs - ref_logprobs


def wrong_shape(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(0)


def returns_two(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(), {"kl": 1}


def needs_a_gpu(logprobs, ref_logprobs, mask):
    raise RuntimeError("Found no NVIDIA driver on your system")


def changes_inputs(logprobs, ref_logprobs, mask):
    ref_logprobs -= 1.0
    return logprobs - ref_logprobs


def prints(logprobs, ref_logprobs, mask):
    print("here")
    return logprobs - ref_logprobs


def random(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs) * torch.rand(())


def exits(logprobs, ref_logprobs, mask):
    raise SystemExit(3)


def text(logprobs, ref_logprobs, mask):
    return "KL"


@pytest.mark.parametrize(
    ("fn", "code", "words"),
    [
        (raises, "KB001", "RuntimeError: no such thing"),
        (needs_more, "KB001", "'estimator'"),
        (wrong_shape, "KB002", "returned shape (3,)"),
        (returns_two, "KB002", "tuple of 2"),
        (text, "KB002", "returned a str"),
        (needs_a_gpu, "KB003", "NVIDIA"),
        (changes_inputs, "KB004", "ref_logprobs"),
        (prints, "KB005", "'here'"),
        (random, "KB006", "two calls"),
        (exits, "KB001", "SystemExit"),
    ],
)
def test_a_call_that_goes_wrong_is_one_sentence(
    fn: Any, code: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = kb.audit(fn, placement="reward")
    finding = next(finding for finding in report.findings if finding.code == code)
    assert words in finding.message
    assert "\n" not in finding.message
    assert capsys.readouterr().out == ""
    assert report.to_dict()["findings"]


def test_parameters_take_columns_by_name() -> None:
    def named(mask, old_log_probs, ref_log_prob, log_prob):
        assert mask.dtype == torch.bool
        return torch.exp(log_prob - old_log_probs) * (log_prob - ref_log_prob)

    assert kb.audit(named, placement="loss").gradient.target is kb.STATEWISE_REVERSE_KL

    def mapped(a, b, kind):
        assert kind == "k1"
        return b - a

    report = kb.audit(mapped, placement="reward", names={"a": "ref_logprobs", "b": "logprobs"}, settings={"kind": "k1"})
    assert report.gradient.target is kb.REVERSE_KL
    assert kb.audit(lambda *arrays: arrays[0] - arrays[1], placement="reward").value.target is kb.REVERSE_KL
    assert kb.audit(lambda q, p: {"kl": q - p}, placement="reward", output="kl").value.target is kb.REVERSE_KL


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"placement": "baseline"}, "placement='baseline'"),
        ({"placement": "loss", "level": "batch"}, "level='batch'"),
        ({"placement": "loss", "credit": "all"}, "credit='all'"),
        ({"placement": "loss", "names": {"q": "old"}}, "'old' came as a column"),
        ({"placement": "loss", "settings": {"beta": 1}}, "'beta' came"),
        ({"placement": "loss", "arrays": "cupy"}, "arrays='cupy'"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(kb.errors.InputError, match=words.replace("'", ".")):
        kb.audit(lambda q, p: q - p, **options)
