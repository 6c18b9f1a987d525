"""KB502 detached-ratio: the importance ratio carries no gradient."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, versions

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, behavior_logprobs):
    rho = torch.exp(logprobs - behavior_logprobs).detach()
    return (rho * k3(logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    seen = report.weighting
    right = report.gradient.target in (report.goal, *versions(report.goal))
    if seen is None or not seen.detached or report.placement != "loss" or right:
        return ""
    return f"the {seen.ratio} ratio q/μ is detached: it weights the value, and its own gradient is missing"


RULE = Rule(
    code="KB502",
    slug="detached-ratio",
    group="off-policy",
    title="The importance ratio carries no gradient",
    checks="Whether the ratio adds its own term to the derivative, at μ = q.",
    why=(
        "With the ratio detached the gradient is that of the bare formula: for k3 the other KL's, for k1 "
        "zero, whatever the value is."
    ),
    example=EXAMPLE,
    instead="Keep the ratio in the graph, or use kb.kl_loss.",
    references=("https://github.com/THUDM/slime/pull/1039", "docs/theory.md, “Losses”"),
    find=_find,
    covered_by=("KB112",),
)
