"""KB202 other-gradient: the gradient is another divergence's."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, versions
from kullback.auditing.words import PLACES, name, times
from kullback.targets import ZERO

EXAMPLE = """\
def k3(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return ((torch.expm1(x) - x) * mask).sum(-1).mean()  # in the loss
"""


def _find(report: Audited) -> str:
    target, goal = report.gradient.named, report.goal
    if report.placement == "metric" or target is None or target in (ZERO, goal) or target in versions(goal):
        return ""
    if report.gradient.factor < 0 and report.value.factor < 0:
        return ""
    said = "the value is" if report.objective is None and report.value.named is goal else "it should follow"
    return (
        f"the gradient {PLACES[report.placement]} is that of {times(report.gradient.factor)}{name(target)}, "
        f"while {said} {name(goal)}"
    )


RULE = Rule(
    code="KB202",
    slug="other-gradient",
    group="biased-gradient",
    title="The gradient is another divergence's",
    checks=(
        "Whether the expected gradient is that of a target other than the one that the value is, or that was asked for."
    ),
    why=(
        "What is logged is not what is optimised. In the loss k3 reports KL(q‖p) and follows KL(p‖q) token by "
        "token, which spreads mass instead of seeking modes."
    ),
    example=EXAMPLE,
    instead="kb.kl_loss with the objective that is meant.",
    references=("Tang & Munos 2025, arXiv 2506.09477", "docs/theory.md, “Losses”"),
    find=_find,
    call=True,
    covered_by=("KB112", "KB209"),
)
