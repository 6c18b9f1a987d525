"""KB120 entropy-left-out: the value is the cross-entropy, a KL without the policy's own entropy."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.targets import CROSS_ENTROPY, STATEWISE_CROSS_ENTROPY

EXAMPLE = """\
def penalty(logprobs, ref_logprobs, mask):  # log q is missing
    return (-ref_logprobs * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    meant = report.objective in (CROSS_ENTROPY, STATEWISE_CROSS_ENTROPY)
    if meant or report.value.named not in (CROSS_ENTROPY, STATEWISE_CROSS_ENTROPY):
        return ""
    return (
        "the value is E_q[−log p], the KL without the term of the policy's own log q: where policy and reference are "
        "one model it is their entropy, and not 0"
    )


RULE = Rule(
    code="KB120",
    slug="entropy-left-out",
    group="biased-value",
    title="The policy's own log q is left out",
    checks="Whether the value is the cross-entropy E_q[−log p] where no one asked for it (objective=kb.CROSS_ENTROPY).",
    why=(
        "KL(q‖p) is this less the policy's entropy. Without it a penalty is smallest for a policy that always gives "
        "the reference's likeliest answer: it pulls towards one answer, not towards the reference."
    ),
    example=EXAMPLE,
    instead="logprobs - ref_logprobs.",
    references=("docs/theory.md",),
    find=_find,
    covered_by=("KB112", "KB008"),
)
