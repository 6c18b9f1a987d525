"""KB505 behavior-ignored: behaviour log-probs are taken and not used."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, whole

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, behavior_logprobs):
    return ((logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    if report.weighting is None or report.weighting.ratio != "ignored" or report.paired:
        return ""
    if report.effects.behavior:
        # They weight the gradient alone, as a straight-through loss does.
        return ""
    if whole(report):
        # They are the policy gradient's, which is switched off.
        return ""
    return "behaviour log-probs are taken and have no effect on the result"


RULE = Rule(
    code="KB505",
    slug="behavior-ignored",
    group="off-policy",
    title="Behaviour log-probs are taken and not used",
    checks="Whether changing them changes the result.",
    why="The signature promises a correction for samples of another policy that does not happen.",
    example=EXAMPLE,
    instead="kb.kl_loss(…, behavior_logprobs=…).",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    call=True,
    covered_by=("KB112", "KB508", "KB509"),
    severity="warn",
)
