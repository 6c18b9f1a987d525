"""KB406 poisoned-padding: what trainers fill padding with makes it nan."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def k3(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return ((torch.exp(x) - 1 - x) * mask).sum(-1)  # inf * 0 where padding holds -1e10
"""


def _find(report: Audited) -> str:
    what = report.handling.poisoned_by
    return (
        f"{what} in masked places changes the result or makes it no number: what is masked is read before"
        if what
        else ""
    )


RULE = Rule(
    code="KB406",
    slug="poisoned-padding",
    group="masking",
    title="What trainers fill padding with makes it nan",
    checks="Whether −1e10, or the least float32, in masked places changes the result or makes it no number.",
    why=(
        "Padding is filled with −1e10 or a dtype's minimum, whose exponential overflows, and inf times a mask of 0 "
        "is nan."
    ),
    example=EXAMPLE,
    instead="Select before the exponential: x = torch.where(mask, ref_logprobs - logprobs, 0).",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
    covered_by=("KB401",),
)
