"""Findings that explain: distances to what was meant, one change that mends, half precision, surrogates."""

from __future__ import annotations

import pytest
import torch

import kullback as kb


def k3(logprobs, ref_logprobs, mask):
    return kb.K3(logprobs - ref_logprobs)


def test_the_distance_is_to_the_target_that_was_meant() -> None:
    """In the reward k3 is about ∇KL(q‖p) − ∇KL(p‖q): near in some worlds to nothing that was meant."""
    report = kb.audit(k3, placement="reward")
    meant = report.meant["gradient"]
    assert meant.target is kb.REVERSE_KL
    assert meant.least == pytest.approx(0.977, abs=0.01)
    assert meant.most == pytest.approx(4.67, abs=0.05)
    assert meant.cosine == pytest.approx(-0.999, abs=0.002)
    assert "97.7% to 467%, cosine down to −0.999" in report.findings[0].message
    assert report.gradient.nearest.name == "kl_gap"


@pytest.mark.parametrize(
    ("sampler", "call"),
    [
        ("on_policy", "kb.estimate(logprobs, ref_logprobs, mask, estimator=kb.K3)"),
        ("off_policy", "estimator=kb.K3, behavior_logprobs=behavior_logprobs)"),
        ("from_reference", "estimator=kb.K3, behavior_logprobs=ref_logprobs)"),
    ],
)
def test_instead_is_right_for_what_drew_the_samples(sampler: str, call: str) -> None:
    report = kb.audit(k3, placement="metric", sampler=sampler)
    assert report.instead.endswith(call)
    assert all(finding.instead == report.instead for finding in report.findings if finding.code == "KB101")


def test_what_instead_proposes_for_other_samplers_is_right() -> None:
    def weighted(logprobs, ref_logprobs, mask, behavior_logprobs):
        rho = torch.exp(torch.cumsum((logprobs - behavior_logprobs) * mask, -1))
        return (rho * kb.K3(logprobs - ref_logprobs) * mask).sum(-1)

    assert kb.audit(weighted, placement="metric", sampler="off_policy").value.target is kb.REVERSE_KL

    def of_reference_samples(logprobs, ref_logprobs, mask):
        return weighted(logprobs, ref_logprobs, mask, ref_logprobs)

    assert kb.audit(of_reference_samples, placement="metric", sampler="from_reference").value.target is kb.REVERSE_KL


def surrogate(logprobs, ref_logprobs, mask):
    kl = ((logprobs - ref_logprobs) * mask).sum(-1)
    return (kl.detach() * (logprobs * mask).sum(-1)).mean()


def test_a_surrogate_is_judged_by_its_gradient() -> None:
    assert kb.audit(surrogate, placement="loss", role="surrogate").findings == ()
    assert kb.audit(surrogate, placement="loss", objective=kb.REVERSE_KL).findings == ()
    plain = kb.audit(surrogate, placement="loss")
    assert [finding.code for finding in plain.findings] == ["KB101"]
    assert any("role='surrogate'" in note for note in plain.notes)
    other = kb.audit(surrogate, placement="loss", objective=kb.FORWARD_KL)
    assert "KB202" in [finding.code for finding in other.findings]


def test_half_precision_is_told_apart_from_the_formula() -> None:
    def half(logprobs, ref_logprobs, mask):
        x = (ref_logprobs - logprobs).bfloat16()
        return (x.exp() - x - 1).float()

    report = kb.audit(half, placement="loss")
    assert (report.value.target, report.gradient.target) == (kb.REVERSE_KL, kb.STATEWISE_FORWARD_KL)
    assert "KB304" not in [finding.code for finding in report.findings]
    assert report.form is not None
    assert report.form.formula is not None
    assert report.form.formula.name == "k3"
    assert 0.01 < report.numerics.half_error < 1


def repaired(fn: object, **options: object) -> list[str]:
    return kb.audit(fn, **options).to_dict()["repairs"]


def test_one_change_that_mends_is_computed() -> None:
    def detached(logprobs, ref_logprobs, mask, old_logprobs):
        rho = torch.exp(torch.cumsum((logprobs - old_logprobs) * mask, -1)).detach()
        return rho * (logprobs - ref_logprobs)

    assert "without the detach the gradient would be that of KL(q‖p) (reverse_kl)" in repaired(
        detached, placement="loss"
    )

    def weighted(logprobs, ref_logprobs, mask, old_logprobs):
        rho = torch.exp(logprobs - old_logprobs)
        return rho * 0.5 * (logprobs - ref_logprobs) ** 2

    found = repaired(weighted, placement="loss")
    assert any(
        text.startswith("without the weight the gradient would be that of Σ_t E_q[KL(q_t‖p_t)]") for text in found
    )

    def clamped(logprobs, ref_logprobs, mask):
        return (logprobs - ref_logprobs).clamp(-5, 5)

    assert "without the clamp the gradient would be that of KL(q‖p) (reverse_kl)" in repaired(
        clamped, placement="reward"
    )

    def own(logprobs, ref_logprobs, mask):
        return logprobs - ref_logprobs

    found = repaired(own, placement="reward", credit="own_token")
    assert found == ["credited with the reward-to-go the gradient would be that of KL(q‖p) (reverse_kl)"]


def test_what_is_right_needs_no_repair() -> None:
    assert repaired(lambda q, p: q - p, placement="reward") == []


def test_a_band_says_where_it_drops() -> None:
    def band(logprobs, ref_logprobs, mask, old_logprobs):
        rho = torch.exp(logprobs - old_logprobs)
        return rho * ((rho > 0.5) & (rho < 2)) * (logprobs - ref_logprobs)

    report = kb.audit(band, placement="loss")
    assert report.weighting is not None
    assert report.weighting.band == (pytest.approx(0.5, rel=1e-4), pytest.approx(2.0, rel=1e-4))
    assert "below 0.5 or above 2 is dropped" in next(f.message for f in report.findings if f.code == "KB508")


def test_multiplication_by_the_mask_is_a_note() -> None:
    report = kb.audit(lambda q, p, m: ((q - p) * m).sum(-1), placement="reward")
    assert report.findings == ()
    assert any("masked places makes the result no number" in note for note in report.notes)


def test_a_verdict_is_the_worst_of_what_was_found() -> None:
    assert kb.audit(lambda q, p, m: q - p, placement="reward").status == "ok"
    assert kb.audit(lambda q, p: (q - p).sum(-1), placement="reward").status == "warn"
    wrong = kb.audit(lambda q, p, m: p - q, placement="reward")
    assert (wrong.status, wrong.main and wrong.main.code) == ("wrong", "KB102")
    assert kb.audit(lambda a, b: a - b, placement="reward").status == "not audited"


def test_an_audit_takes_less_than_two_seconds() -> None:
    assert kb.audit(surrogate, placement="loss").seconds < 20  # of wall time, on a machine that does other work
