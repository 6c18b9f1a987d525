"""KB116 row-order: what a row gives depends on where it stands in the batch."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask).sum(-1).sort().values
"""

SAID = {
    "moved": "results do not stand at the places of their rows: two rows that change places give the same results",
    "placed": "a row gives another result where it stands elsewhere in its batch",
}


def _find(report: Audited) -> str:
    if report.ordering == "moved" and report.placement == "metric":
        return ""  # a mean does not ask which row is which
    return SAID.get(report.ordering, "")


RULE = Rule(
    code="KB116",
    slug="row-order",
    group="biased-value",
    title="What a row gives depends on its place",
    checks="Two rows of a batch change places, in three pairs: their results have to change places with them.",
    why=(
        "A penalty that lands on another row's reward holds nothing to the reference, and a row that is left out or "
        "counted twice for its place is so in every batch."
    ),
    example=EXAMPLE,
    instead="Keep the rows in their order: after sorting or regrouping, put the results back by the inverse order.",
    references=("docs/audit.md",),
    find=_find,
)
