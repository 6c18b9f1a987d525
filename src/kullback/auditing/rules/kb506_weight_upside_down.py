"""KB506 weight-upside-down: the importance ratio is upside down."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
rho = torch.exp(behavior_logprobs - logprobs)
"""


def _find(report: Audited) -> str:
    if report.weighting is None or report.weighting.ratio != "upside down":
        return ""
    return "the importance ratio is upside down: μ/q instead of q/μ"


RULE = Rule(
    code="KB506",
    slug="weight-upside-down",
    group="off-policy",
    title="The importance ratio is upside down",
    checks="Whether the weight of a token falls as q/μ rises.",
    why=("μ/q is the weight for samples of the policy seen from the behaviour's side; here it squares the mismatch."),
    example=EXAMPLE,
    instead="exp(logprobs − behavior_logprobs).",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    covered_by=("KB112",),
)
