"""KB411 empty-row: a row in which nothing counts makes the result no number."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return (((logprobs - ref_logprobs) * mask).sum(-1) / mask.sum(-1)).mean()  # 0/0
"""


def _find(report: Audited) -> str:
    return (
        "a row in which no token counts makes the result or its gradient nan or infinite"
        if report.handling.empty
        else ""
    )


RULE = Rule(
    code="KB411",
    slug="empty-row",
    group="masking",
    title="A row in which nothing counts makes the result no number",
    checks="A batch of four rows, of which the first has an empty mask.",
    why=(
        "Truncated completions are masked out whole, and filters leave rows empty: one of them makes the loss of the "
        "batch nan."
    ),
    example=EXAMPLE,
    instead="Divide by mask.sum(-1).clamp(min=1), or by the number of all counted tokens.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB007",),
    severity="warn",
)
