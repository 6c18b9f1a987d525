"""KB508 rejection-band: terms outside a band of ratios are dropped."""

from __future__ import annotations

from math import isfinite

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(logprobs - old_logprobs)
    return rho * ((rho > 0.5) & (rho < 2)) * (logprobs - ref_logprobs)
"""


def _find(report: Audited) -> str:
    seen = report.weighting
    if seen is None or not seen.drops:
        return ""
    low, high = seen.band
    ends = [f"below {low:.3g}"] if low > 0 else []
    ends += [f"above {high:.3g}"] if isfinite(high) else []
    return f"a token whose ratio q/μ is {' or '.join(ends)} is dropped: the band rejects, it does not clip"


RULE = Rule(
    code="KB508",
    slug="rejection-band",
    group="off-policy",
    title="Terms outside a band of ratios are dropped",
    checks="From which ratio on a token's term is 0.",
    why=(
        "What is dropped is not random: the tokens on which the two policies differ most have no weight, and the KL "
        "of the rest is another one."
    ),
    example=EXAMPLE,
    instead="Truncate instead of dropping, and say so: kb.kl_loss(…, behavior_logprobs=…, truncate=…).",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB112",),
    severity="warn",
)
