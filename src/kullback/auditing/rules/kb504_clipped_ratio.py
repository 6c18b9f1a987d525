"""KB504 clipped-ratio: the importance ratio is clipped."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
rho = torch.exp(logprobs - behavior_logprobs).clamp(max=2.0)
"""


def _find(report: Audited) -> str:
    seen = report.weighting
    if seen is None or not seen.clipped or seen.drops:
        return ""
    ends = [f"{end} {value:.3g}" for end, value in (("at least", seen.low), ("at most", seen.high)) if 0 < value < 1e9]
    return f"the {seen.ratio} ratio q/μ is clipped to {' and '.join(ends)}, which biases what it weights"


RULE = Rule(
    code="KB504",
    slug="clipped-ratio",
    group="off-policy",
    title="The importance ratio is clipped",
    checks="What the weight becomes at ratios of exp(±6).",
    why="A clip trades variance for a bias that grows with the distance from the behaviour policy.",
    example=EXAMPLE,
    instead="State the clip: kb.kl_loss(…, truncate=…) declares it.",
    references=("docs/theory.md",),
    find=_find,
    covered_by=("KB112",),
    severity="warn",
)
