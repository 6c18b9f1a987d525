"""KB206 scaled-gradient: the gradient is a multiple of the target's."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import PLACES, name, times
from kullback.targets import ZERO

EXAMPLE = """\
def k2(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) ** 2 * mask).sum(-1)  # twice
"""


def _find(report: Audited) -> str:
    scale, target, value = report.gradient.scale, report.gradient.target, report.value
    if report.placement == "metric" or target is None or target is ZERO or scale in (1.0, value.scale, -value.scale):
        return ""
    if scale < 0 or (value.target is None and abs(scale - 2.0) > 1e-6):
        return ""
    return f"the gradient {PLACES[report.placement]} is {times(scale)}that of {name(target)}"


RULE = Rule(
    code="KB206",
    slug="scaled-gradient",
    group="biased-gradient",
    title="The gradient is a multiple of the target's",
    checks="Whether the gradient has a factor that the value does not have.",
    why="The coefficient means something else than it says, by that factor.",
    example=EXAMPLE,
    instead="Divide by the factor.",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    severity="warn",
    covered_by=("KB103", "KB116", "KB202", "KB207"),
)
