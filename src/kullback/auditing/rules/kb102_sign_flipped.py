"""KB102 sign-flipped: the value has the wrong sign."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, on_the_other_side
from kullback.auditing.words import name, times
from kullback.targets import ZERO

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((ref_logprobs - logprobs) * mask).sum(-1)  # samples from the policy
"""


def _find(report: Audited) -> str:
    value = report.value
    sign = -1.0 if report.placement == "bonus" else 1.0
    if value.target in (None, ZERO) or sign * value.scale >= 0 or report.value.target is None:
        return ""
    other = on_the_other_side(report)
    right = other is not None and other.target is not None and other.scale > 0
    if report.sampler == "from_reference" and right:
        return ""
    role = {"bonus": "what is added", "metric": "a divergence"}.get(report.placement, "a penalty that is subtracted")
    text = f"the value is {times(value.scale)}{name(report.value.target)}, of the wrong sign for {role}"
    if right and other is not None and other.target is not None:
        return f"{text} (with samples of the reference it would be {name(other.target)})"
    return text


RULE = Rule(
    code="KB102",
    slug="sign-flipped",
    group="biased-value",
    title="The value has the wrong sign",
    checks="Whether the expectation is a negative multiple of a named target.",
    why="As a penalty it rewards moving away from the reference; as a metric it falls while the models part.",
    example=EXAMPLE,
    instead="For samples of the policy the log-ratio is logprobs − ref_logprobs.",
    references=("Schulman 2020, “Approximating KL Divergence”",),
    find=_find,
    covered_by=("KB112",),
)
