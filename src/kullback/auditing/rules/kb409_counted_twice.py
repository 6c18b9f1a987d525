"""KB409 counted-twice: some tokens count twice, or not at all."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    x = (logprobs - ref_logprobs) * mask
    return x.sum(-1) + x[:, -1]
"""


def _find(report: Audited) -> str:
    twice, lost = report.effects.twice, report.effects.lost
    if lost:
        return f"of a row of equal tokens, {len(lost)} do not count, from number {lost[0] + 1} on"
    if not twice:
        return ""
    which = ", ".join(str(t + 1) for t in twice[:4])
    return f"of a row of equal tokens, number {which} {'counts' if len(twice) == 1 else 'count'} twice"


RULE = Rule(
    code="KB409",
    slug="counted-twice",
    group="masking",
    title="Some tokens count twice, or not at all",
    checks="The effect of each of 136 equal tokens on the result, of forty for one number a batch.",
    why="Borders of chunks that overlap, or a last token that is added again, weigh some tokens double.",
    example=EXAMPLE,
    instead="Cut chunks at [start, stop), and sum each token once.",
    references=("docs/audit.md",),
    find=_find,
)
