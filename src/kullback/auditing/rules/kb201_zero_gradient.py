"""KB201 zero-gradient: the gradient is zero on average."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import PLACES
from kullback.targets import ZERO

EXAMPLE = """\
def k1(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask).sum(-1).mean()  # in the loss
"""


def _find(report: Audited) -> str:
    if report.placement == "metric" or report.gradient.named is not ZERO:
        return ""
    if report.placement == "loss" and not report.conduct.differentiable:
        return "no gradient flows: the result is detached from the log-probs, so in the loss it does nothing"
    where = PLACES[report.placement]
    return f"the gradient {where} is zero on average: the term adds noise and does not hold the policy to the reference"


RULE = Rule(
    code="KB201",
    slug="zero-gradient",
    group="biased-gradient",
    title="The gradient is zero on average",
    checks="Whether the expected gradient vanishes in every exact world.",
    why=(
        "The term is logged and weighted, and does nothing but add noise: the policy drifts as if there were "
        "no penalty."
    ),
    example=EXAMPLE,
    instead="Put k1 in the reward, or use kb.kl_loss, whose value is the same and whose gradient is the KL's.",
    references=("Tang & Munos 2025, arXiv 2506.09477", "docs/theory.md, “Losses”"),
    find=_find,
    call=True,
    covered_by=("KB112",),
)
