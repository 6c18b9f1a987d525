"""KB107 wrong-side: the formula is for samples of the other model."""

from __future__ import annotations

from kullback.auditing.identification import name
from kullback.auditing.report import AuditReport
from kullback.auditing.rules.record import Rule
from kullback.targets import ZERO

EXAMPLE = """\
def forward_kl(logprobs, ref_logprobs, mask):  # needs samples of the reference
    x = logprobs - ref_logprobs
    return ((torch.exp(x) - 1 - x) * mask).sum(-1)
"""


SAMPLES = {"on_policy": "the policy", "from_reference": "the reference"}


def _find(report: AuditReport) -> str:
    other = {"on_policy": "from_reference", "from_reference": "on_policy"}.get(report.sampler, "")
    there = report.values.get(other)
    if there is None or report.behavior is not None or "behavior_logprobs" in report.columns:
        return ""
    here = report.value
    if there.target is None or there.target is ZERO or there.scale != 1.0 or there.weight != here.weight:
        return ""
    if here.target is not None and (here.scale > 0 or report.sampler == "on_policy"):
        return ""
    return (
        f"the value is {name(there.target)} for sequences drawn from {SAMPLES[other]}, "
        f"but not for those of {SAMPLES[report.sampler]}"
    )


RULE = Rule(
    code="KB107",
    slug="wrong-side",
    group="biased-value",
    title="The formula is for samples of the other model",
    checks=(
        "Whether the value is a named target for sequences of the reference and not for those of the policy, "
        "or the other way round."
    ),
    why=(
        "A divergence is a mean under one of the two models. Averaged over the other's samples the same "
        "formula is something else."
    ),
    example=EXAMPLE,
    instead="For KL(p‖q) from samples of the policy weight with r: kb.ESTIMATORS['forward_k3'].",
    references=("Schulman 2020, “Approximating KL Divergence”", "docs/estimators.md"),
    find=_find,
    covered_by=("KB104", "KB105"),
)
