"""Which parameter gets which column: by the user's word or its name, never by its place; and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from right_code_styles import jax_where, numpy_einsum

import kullback as kb
from kullback.auditing.subject.filled import Filled
from kullback.auditing.subject.naming import column_of, is_coefficient


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (
            "logprobs",
            "new current policy_logprobs logprobs_current student_logps trainer_logprobs log_pi log_q q newLogProbs",
        ),
        (
            "ref_logprobs",
            "ref teacher teacher_logprobs logprobs_ref base_logprobs sft_logps ref_policy_logps log_probs_base p",
        ),
        ("behavior_logprobs", "old old_logprobs rollout_logprobs vllm_logps inference_logprobs behaviour_logprobs mu"),
        ("log_distributions", "logits policy_logits student_logits logits_new"),
        ("ref_log_distributions", "ref_logits teacher_logits target_logits"),
        ("behavior_log_distributions", "old_logits logits_old rollout_logits"),
        ("mask", "m loss_mask completion_mask response_mask attention_mask valid_mask"),
        ("tokens", "input_ids completion_ids labels actions"),
        ("advantages", "adv advantages"),
        ("rewards", "reward scores"),
        ("groups", "group_ids uids"),
        ("ratio", "rho importance_ratio"),
        (
            None,
            "a x kl padding_mask prompt_mask temperature clip_ratio target_policy_logprobs old_ref_logprobs entropy",
        ),
    ],
)
def test_names_say_which_column(column: str | None, names: str) -> None:
    assert {name: column_of(name) for name in names.split()} == dict.fromkeys(names.split(), column)


def test_coefficients_have_names() -> None:
    assert all(map(is_coefficient, ("beta", "kl_coef", "cfg.kl_loss_coef", "self.beta")))
    assert not any(map(is_coefficient, ("clip", "alpha", "temperature")))


def test_every_report_says_what_each_parameter_got() -> None:
    def kl(new, ref, loss_mask, beta):
        return beta * (new - ref) * loss_mask

    report = kb.audit(kl, placement="reward")
    wiring = {"new": "logprobs", "ref": "ref_logprobs", "loss_mask": "mask", "beta": "1.0"}
    assert report.wiring == wiring
    assert report.to_dict()["wiring"] == wiring
    assert any("new → logprobs, ref → ref_logprobs" in str(block) for block in report.document().blocks)
    assert "kb.kl_reward(new, ref, loss_mask, estimator=kb.K1)" in report.instead


def test_what_no_rule_decides_is_refused_with_the_line_to_paste() -> None:
    report = kb.audit(lambda a, b, mask: (a - b) * mask, placement="reward")
    assert report.failed
    message = report.findings[0].message
    assert "--map a=logprobs --map b=ref_logprobs" in message
    assert "names={'a': 'logprobs', 'b': 'ref_logprobs'}" in message
    names = {"a": "logprobs", "b": "ref_logprobs"}
    assert kb.audit(lambda a, b, mask: (a - b) * mask, placement="reward", names=names).status == "ok"


def test_two_parameters_for_one_column_are_refused() -> None:
    report = kb.audit(lambda logprobs, policy_logps, ref_logprobs: logprobs - ref_logprobs, placement="reward")
    assert "'logprobs' and 'policy_logps'" in report.findings[0].message


def test_the_order_of_parameters_does_not_matter() -> None:
    """A reference before the policy is wired by its name: right code is right and a wrong sign is seen."""
    right = kb.audit(lambda ref, policy, mask: (policy - ref) * mask, placement="reward")
    wrong = kb.audit(lambda ref, policy, mask: (ref - policy) * mask, placement="reward")
    assert right.findings == ()
    assert [finding.code for finding in wrong.findings] == ["KB102", "KB205"]
    assert "with the log-ratio turned around" in wrong.to_dict()["repairs"][0]


def test_what_raises_says_what_was_handed_where() -> None:
    def kl(new, teacher_logprobs):
        return new.no_such_thing(teacher_logprobs)

    message = kb.audit(kl, placement="reward").findings[0].message
    assert "(handed: new → logprobs, teacher_logprobs → ref_logprobs)" in message


def test_a_policy_and_what_drew_the_samples_are_a_pair() -> None:
    def mismatch(logprobs, rollout_logprobs, mask):
        return ((rollout_logprobs - logprobs) * mask).sum(-1)

    report = kb.audit(mismatch, placement="metric")
    assert (report.value.target, report.sampler) == (kb.FORWARD_KL, "from_reference")
    assert report.wiring["rollout_logprobs"] == "ref_logprobs"
    assert report.instead.startswith("kb.estimate(rollout_logprobs, logprobs, mask")
    assert any("takes no reference" in note for note in report.notes)


@pytest.mark.parametrize("shape", ["row", "token", "column"])
def test_arrays_by_a_word_have_the_shape_that_works(shape: Any) -> None:
    seen: set[tuple[int, ...]] = set()

    def loss(logprobs, ref_logprobs, mask, advantages):
        wanted = {"row": 1, "token": 2, "column": 2}[shape]
        if advantages.ndim != wanted or (
            shape != "row" and (advantages.shape[1] == 1) == (logprobs.shape[1] > 1 and shape == "token")
        ):
            raise ValueError("another shape")
        seen.add(tuple(advantages.shape))
        gain = advantages[:, None] if shape == "row" else advantages
        return ((logprobs - ref_logprobs) * mask + gain * 0).sum(-1)

    assert kb.audit(loss, placement="reward").status == "ok"
    assert seen


def test_words_for_arrays() -> None:
    q = torch.full((3, 2), -1.0)
    assert Filled("zeros").of(q).tolist() == [0.0] * 3
    assert Filled("ones", "token").of(q).tolist() == [[1.0, 1.0]] * 3
    assert Filled("signs", "column").of(q).tolist() == [[1.0], [-1.0], [1.0]]


@pytest.mark.parametrize("word", ["zeros", "ones", "signs"])
def test_a_whole_loss_is_judged_by_its_kl_alone(word: str) -> None:
    def loss(logprobs, old_logprobs, ref_logprobs, advantages, mask):
        rho, gain = torch.exp((logprobs - old_logprobs.detach()) * mask), advantages.unsqueeze(1)
        policy = -torch.minimum(rho * gain, rho.clamp(0.8, 1.2) * gain) * mask
        return policy.sum(-1).mean() + 0.04 * kb.kl_loss(logprobs, ref_logprobs, mask, objective=kb.REVERSE_KL)

    report = kb.audit(loss, placement="loss", settings={"advantages": word})
    assert report.findings == ()
    assert (report.gradient.target, report.gradient.scale) == (kb.REVERSE_KL, 0.04)


def test_a_coefficient_in_an_object_takes_away_what_is_beside_the_kl() -> None:
    def loss(logprobs, ref_logprobs, mask, cfg):
        x = (logprobs - ref_logprobs) * mask
        return (cfg.beta * x.sum(-1).detach() * (logprobs * mask).sum(-1) + 0.3 * (logprobs * mask).sum(-1)).mean()

    report = kb.audit(loss, placement="loss", settings={"cfg.beta": 0.5}, role="surrogate")
    assert (report.gradient.target, report.gradient.scale) == (kb.REVERSE_KL, 0.5)
    assert "cfg.beta = 0" in report.notes[0]


def test_a_bonus_is_what_is_added() -> None:
    def shaped(logprobs, ref_logprobs, score, beta=0.1):
        return score - beta * (logprobs - ref_logprobs)

    report = kb.audit(shaped, placement="bonus")
    assert report.findings == ()
    assert (report.value.scale, report.gradient.scale) == (-0.1, 0.1)
    assert report.instead.startswith("-kb.kl_reward(")
    assert [f.code for f in kb.audit(shaped, placement="reward").findings] == ["KB102", "KB205"]


@pytest.mark.parametrize(("fn", "library"), [(numpy_einsum, "NumPy"), (jax_where, "JAX")])
def test_other_arrays_are_tried_where_code_that_names_them_raises(fn: Any, library: str) -> None:
    report = kb.audit(fn, placement="reward")
    assert (report.findings, report.origin) == ((), f"takes arrays of {library}, as it raises on torch's")
    assert report.value.target is kb.REVERSE_KL


def test_a_function_that_raises_on_all_arrays_says_what_torch_said() -> None:
    def broken(logprobs: Any, ref_logprobs: Any, mask: Any) -> Any:
        return np.asarray(logprobs.no_such_thing)

    [finding] = kb.audit(broken, placement="reward").findings
    assert finding.code == "KB001"
    assert "'Tensor' object has no attribute" in finding.message
