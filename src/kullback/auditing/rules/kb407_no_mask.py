"""KB407 no-mask: it takes no mask, and padding counts."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def logged(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).sum(1).mean()
"""


def _find(report: Audited) -> str:
    if report.masking.takes_mask or not report.handling.leaks:
        return ""
    return "it takes no mask, and what padding holds changes the result"


RULE = Rule(
    code="KB407",
    slug="no-mask",
    group="masking",
    title="It takes no mask, and padding counts",
    checks="Whether log-probs in padding change the result of a function that takes no mask.",
    why=(
        "A batch has rows of different lengths. What padding holds is summed with the tokens unless every caller "
        "masks both inputs first."
    ),
    example=EXAMPLE,
    instead="Take the mask: ((logprobs - ref_logprobs) * mask).sum(1).mean().",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
