"""KB509 inverted-bounds: the bounds of the ratio are inverted."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, old_logprobs):
    rho = torch.exp(logprobs - old_logprobs).clamp(min=2.0, max=0.5)
    return rho * (logprobs - ref_logprobs)
"""


def _find(report: Audited) -> str:
    seen = report.weighting
    if seen is None or not seen.inverted:
        return ""
    if seen.ratio == "ignored":
        return "whatever the ratio q/μ is, the weight is one number: the bounds of the clip are inverted"
    return "a token counts where its ratio q/μ is far from 1, and not where it is 1: the band is inverted"


RULE = Rule(
    code="KB509",
    slug="inverted-bounds",
    group="off-policy",
    title="The bounds of the ratio are inverted",
    checks="Whether a ratio far from 1 counts and one of 1 does not, or every ratio becomes one number.",
    why=(
        "clamp(min, max) with min above max gives max everywhere, and a band with its signs turned keeps what it "
        "should drop: without an error."
    ),
    example=EXAMPLE,
    instead="rho.clamp(min=low, max=high) with low < 1 < high.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB112",),
)
