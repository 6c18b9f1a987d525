"""KB310 rounded-away: the value is rounded to few digits."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return round(float(((logprobs - ref_logprobs) * mask).sum()), 2)
"""


def _find(report: Audited) -> str:
    step = report.numerics.step
    return f"the result moves in steps of about {step:.2g}: smaller differences are rounded away" if step > 0 else ""


RULE = Rule(
    code="KB310",
    slug="rounded-away",
    group="numerics",
    title="The value is rounded to few digits",
    checks="Whether log-probs that differ by a thousandth change the result.",
    why="Differences below the step of the rounding are lost, and no mean over samples brings them back.",
    example=EXAMPLE,
    instead="Round what is shown, not what is returned.",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
