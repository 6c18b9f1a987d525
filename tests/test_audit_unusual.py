"""Mistakes and right code in unusual styles: the finding that explains comes first, and no right code is accused."""

from __future__ import annotations

import pytest
import torch
from right_code_unusual import UNUSUAL_STYLES
from wrong_code import METRIC, REWARD, Case
from wrong_code_unusual import UNUSUAL

import kullback as kb


@pytest.mark.parametrize("case", UNUSUAL, ids=lambda case: f"{case}-{case.code}")
def test_the_finding_that_explains_comes_first(case: Case) -> None:
    report = kb.audit(case.fn, **case.options)
    assert report.main is not None, str(report)
    assert report.main.code == case.code, str(report)


@pytest.mark.parametrize("case", UNUSUAL_STYLES, ids=str)
def test_nothing_is_found_in_right_code(case: Case) -> None:
    report = kb.audit(case.fn, **case.options)
    assert [str(finding) for finding in report.findings] == []
    assert report.status == "ok"


def test_a_loss_that_cannot_be_differentiated_is_not_audited() -> None:
    loop = next(case.fn for case in UNUSUAL_STYLES if str(case) == "jax_while")
    assert kb.audit(loop, placement="loss", arrays="jax").failed


def test_the_old_policy_is_the_policy_where_nothing_else_is() -> None:
    def kl(old_log_probs, ref_log_prob, response_mask):
        return (old_log_probs - ref_log_prob) * response_mask

    report = kb.audit(kl, placement="reward")
    assert report.findings == ()
    assert report.wiring == {"old_log_probs": "logprobs", "ref_log_prob": "ref_logprobs", "response_mask": "mask"}
    # In the loss nothing flows into the log-probs that samples came with.
    in_the_loss = kb.audit(kl, placement="loss")
    assert in_the_loss.main is not None
    assert in_the_loss.main.code == "KB201"
    assert kb.audit(kl, placement="reward", sampler="off_policy").wiring["old_log_probs"] == "behavior_logprobs"


def test_logits_are_not_handed_over_normalised() -> None:
    seen = []

    def kl(logits, ref_logits, mask):
        seen.append(logits.detach().logsumexp(-1))
        return (logits.softmax(-1) * (logits.log_softmax(-1) - ref_logits.log_softmax(-1))).sum(-1)

    assert "KB117" not in [finding.code for finding in kb.audit(kl, **METRIC).findings]
    assert not torch.allclose(seen[0], torch.zeros_like(seen[0]), atol=0.01)


def test_what_is_divided_by_the_vocabulary_is_named_so() -> None:
    mean = next(case.fn for case in UNUSUAL if str(case) == "batchmean_words")
    value = kb.audit(mean, **METRIC).value
    assert (value.target, value.weight) == (kb.REVERSE_KL, "words")
    assert str(value).endswith("per word of the vocabulary")


def test_places_of_padding_that_add_something_are_told_from_a_mean() -> None:
    def added(logprobs, ref_logprobs, mask):
        return (torch.where(mask, logprobs - ref_logprobs, 0.25)).sum(-1)

    report = kb.audit(added, **REWARD)
    assert report.masking.adds == pytest.approx(0.25)
    assert not report.masking.width
    assert report.main is not None
    assert report.main.message == "every place of padding adds 0.25 to the result"
