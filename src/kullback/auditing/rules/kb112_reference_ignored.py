"""KB112 reference-ignored: the reference has no effect."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    if report.effects.reference is not False:
        return ""
    named = "" if report.wires is None else report.wires.parameter("ref_logprobs")
    what = f"the reference, {named}, is taken and has no effect on the result"
    if report.effects.behavior:
        return f"{what}: the log-probs of what drew the samples stand in its place"
    return what


RULE = Rule(
    code="KB112",
    slug="reference-ignored",
    group="biased-value",
    title="The reference has no effect",
    checks="Whether other log-probs of the reference change value or gradient.",
    why="The term is no divergence from the reference: it holds the policy to nothing, or to another policy.",
    example=EXAMPLE,
    instead="Compare logprobs with ref_logprobs; the log-probs of what drew the samples belong in the weight.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB008",),
)
