"""KB403 last-token-dropped: the token that ends a sequence does not count."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask)[:, :-1].sum(-1)
"""


def _find(report: Audited) -> str:
    if report.masking.last_counts is not False and report.effects.end is not False:
        return ""
    if report.masking.last_counts is not False:
        return "the token that ends a sequence has no effect: it is left out by its number"
    return "the last token of a sequence has no effect: the end-of-sequence token is left out"


RULE = Rule(
    code="KB403",
    slug="last-token-dropped",
    group="masking",
    title="The token that ends a sequence does not count",
    checks="Whether changing the last counted token's log-probs changes the result.",
    why=(
        "The end-of-sequence token is part of what the policy chose. Without it the sum is the KL of nothing, "
        "and lengths may drift unpunished."
    ),
    example=EXAMPLE,
    instead="Count every sampled token, the one that ends the sequence included.",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    covered_by=("KB410",),
)
