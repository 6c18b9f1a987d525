"""TRL and verl as their users install them: ``make audit-peers``."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import kullback as kb
from kullback.auditing.assignments import Request, assignments
from kullback.auditing.trainers import TRAINERS
from kullback.errors import FileError

pytestmark = pytest.mark.peers

LEFT_OUT = {("trl", "nash-md"), ("trl", "nash-md-metric")}
"""Terms of earlier versions that the newest release has no longer."""


def report(trainer: str, member: str) -> kb.AuditReport:
    (assignment,) = assignments(f"{trainer}:{member}", None, Request())
    return assignment.report()


@pytest.mark.parametrize(
    ("trainer", "member", "value", "gradient"),
    [
        ("verl", "k1", "reverse_kl", "zero"),
        ("verl", "k2", None, "statewise_reverse_kl"),
        ("verl", "k3", None, None),
        ("verl", "k1+", "reverse_kl", "statewise_reverse_kl"),
        ("verl", "k1-reward", "reverse_kl", "reverse_kl"),
        ("trl", "rloo", "reverse_kl", "reverse_kl"),
        ("trl", "grpo", "reverse_kl", "statewise_reverse_kl"),
        ("trl", "grpo-uncorrected", "reverse_kl", "statewise_forward_kl"),
        ("trl", "gkd-0", "statewise_forward_kl", "statewise_forward_kl"),
        ("trl", "sdpo-1", "reverse_kl", "statewise_reverse_kl"),
        ("trl", "online-dpo-metric", "reverse_kl", None),
        ("skyrl", "k1-reward", "reverse_kl", "reverse_kl"),
        ("openrlhf", "k1-unbiased", None, "statewise_reverse_kl"),
    ],
)
def test_trainers_own_functions(trainer: str, member: str, value: str | None, gradient: str | None) -> None:
    found = report(trainer, member)
    assert not found.failed, str(found)
    assert (found.value.target and found.value.target.name) == value
    assert (found.gradient.target and found.gradient.target.name) == gradient


def test_verl_clamps_its_k3() -> None:
    found = report("verl", "k3")
    assert found.value.within is kb.REVERSE_KL
    assert found.gradient.within is kb.STATEWISE_FORWARD_KL
    assert found.form is not None
    assert (found.form.floor, found.form.ceiling) == (10.0, 10.0)


def test_trl_divides_by_tokens() -> None:
    found = report("trl", "grpo-metric")
    assert "KB108" in [finding.code for finding in found.findings]


def test_the_same_options_follow_another_gradient_under_unsloth() -> None:
    """use_bias_correction_kl is on by default in TRL and off in Unsloth."""
    assert report("trl", "grpo").default
    assert report("unsloth", "grpo-dapo").default
    assert report("trl", "grpo").gradient.named is kb.STATEWISE_REVERSE_KL
    assert report("unsloth", "grpo-dapo").gradient.named is kb.STATEWISE_FORWARD_KL


@pytest.mark.parametrize("trainer", ["trl", "verl", "openrlhf", "skyrl", "unsloth", "liger", "tinker"])
def test_every_term_is_audited(trainer: str) -> None:
    for member in TRAINERS[trainer].members:
        if (trainer, member.name) in LEFT_OUT:
            with pytest.raises(FileError, match="No such file"):
                report(trainer, member.name)
            continue
        found = report(trainer, member.name)
        assert not found.failed, (member.name, str(found))


def test_what_is_taken_out_is_what_is_imported() -> None:
    """verl's function behaves the same when the whole stack is imported."""
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    settings = {"kl_penalty": "k3"}
    names = {"logprob": "logprobs", "ref_logprob": "ref_logprobs"}
    imported = kb.audit(core.kl_penalty, placement="loss", names=names, settings=settings)
    taken = report("verl", "k3")
    assert imported.value == taken.value
    assert imported.gradient == taken.gradient
    assert Path(core.__file__).is_relative_to(TRAINERS["verl"].root(None))
