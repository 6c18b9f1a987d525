"""KB109 scaled-value: the value is a multiple of what it looks like."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import name, times
from kullback.targets import ZERO

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):  # logged as the KL
    return 0.5 * ((logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    value, gradient = report.value, report.gradient
    scale = -value.scale if report.placement == "bonus" else value.scale
    if value.target is None or value.target is ZERO or scale <= 0 or scale == 1.0:
        return ""
    same = report.placement != "metric" and (gradient.scale == scale or gradient.target in (None, ZERO))
    return "" if same else f"the value is {times(value.scale)}{name(value.target)}"


RULE = Rule(
    code="KB109",
    slug="scaled-value",
    group="biased-value",
    title="The value is a multiple of what it looks like",
    checks=(
        "Whether the value is a named target times a factor that the gradient does not have, or that a metric has."
    ),
    why=("The log and the objective differ by a factor, and every threshold set from one is wrong for the other."),
    example=EXAMPLE,
    instead="Keep the coefficient out of the function, or log the value before it is multiplied.",
    references=("Schulman 2020, “Approximating KL Divergence”",),
    covered_by=("KB116",),
    find=_find,
    severity="warn",
)
