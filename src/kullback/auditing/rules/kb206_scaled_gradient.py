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
    gradient, value = report.gradient, report.value
    if report.placement == "metric" or gradient.target in (None, ZERO) or gradient.scale in (1.0, value.scale):
        return ""
    if gradient.scale < 0 or (value.target is None and abs(gradient.scale - 2.0) > 1e-6):
        return ""
    assert gradient.target is not None
    return f"the gradient {PLACES[report.placement]} is {times(gradient.scale)}that of {name(gradient.target)}"


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
    covered_by=("KB103", "KB202", "KB207"),
)
