"""KB507 off-policy-bias: off-policy it is something else."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, off_policy, whole

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, behavior_logprobs):
    rho = torch.exp(logprobs - behavior_logprobs).clamp(0.8, 1.2)
    return (rho * (logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    if report.weighting is not None and report.weighting.ratio == "ignored" and whole(report):
        return ""
    return off_policy(report, "", "behaviour log-probs are used, but do not make it right")


RULE = Rule(
    code="KB507",
    slug="off-policy-bias",
    group="off-policy",
    title="Off-policy it is something else",
    checks="Whether, with behaviour log-probs handed over, value and gradient are the same targets as on-policy.",
    why=("The correction is incomplete: with samples of an older policy or an inference engine the term is biased."),
    example=EXAMPLE,
    instead="kb.kl_loss(…, behavior_logprobs=…).",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    call=True,
    covered_by=("KB112", "KB501", "KB502", "KB503", "KB504", "KB505", "KB506", "KB508", "KB509"),
)
