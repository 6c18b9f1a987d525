"""KB205 uphill: the gradient leads away from the reference."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import PLACES, name, times
from kullback.targets import ZERO

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):  # in the reward, subtracted
    return ((ref_logprobs - logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    scale, target = report.gradient.scale, report.gradient.target
    if report.placement == "metric" or target is None or target is ZERO or scale >= 0:
        return ""
    return (
        f"the gradient {PLACES[report.placement]} is {times(scale)}that of {name(target)}: "
        "minimising it drives the models apart"
    )


RULE = Rule(
    code="KB205",
    slug="uphill",
    group="biased-gradient",
    title="The gradient leads away from the reference",
    checks="Whether the expected gradient is a negative multiple of a target's.",
    why="Minimised, the term drives the policy away from the reference, faster the further it is.",
    example=EXAMPLE,
    instead="Turn the log-ratio around.",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    covered_by=("KB112", "KB410"),
)
