"""KB107 wrong-side: the formula is for samples of the other model."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import OTHER_SIDE, Rule, on_the_other_side
from kullback.auditing.words import SAMPLES, name
from kullback.targets import ZERO

EXAMPLE = """\
def forward_kl(logprobs, ref_logprobs, mask):  # needs samples of the reference
    x = logprobs - ref_logprobs
    return ((torch.exp(x) - 1 - x) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    there = on_the_other_side(report)
    if there is None or report.weighting is not None or "behavior_logprobs" in report.columns:
        return ""
    here = report.value
    if there.target is None or there.target is ZERO or there.scale != 1.0 or there.weight != here.weight:
        return ""
    if here.target is not None and (here.scale > 0 or report.sampler == "on_policy"):
        return ""
    return (
        f"the value is {name(there.target)} for sequences drawn from {SAMPLES[OTHER_SIDE[report.sampler]]}, "
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
