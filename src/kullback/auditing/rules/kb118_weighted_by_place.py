"""KB118 weighted-by-place: how much a token counts depends on its place."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    discount = 0.95 ** torch.arange(mask.shape[1])
    return ((logprobs - ref_logprobs) * mask * discount).sum(-1)
"""


def _find(report: Audited) -> str:
    places = report.effects.places
    # Credit by place is right where the expectation is: as of a reward-to-go within a loss.
    judged = report.value if report.placement == "metric" else report.gradient
    if places is None or judged.target is not None:
        return ""
    second, last = places
    return (
        f"among equal tokens of a row the second counts {second:.3g} times as much as the first and the last "
        f"{last:.3g} times: a discount, or another weight by place"
    )


RULE = Rule(
    code="KB118",
    slug="weighted-by-place",
    group="biased-value",
    title="How much a token counts depends on its place",
    checks="What each of many equal tokens of a row does to the result.",
    why=(
        "A KL of sequences is the sum over their tokens, each as much as the others. With a discount the late tokens "
        "are held to the reference less than the early ones, and padding or a prompt before a row changes its weight."
    ),
    example=EXAMPLE,
    instead="Sum the tokens as they are; a discount belongs to the reward alone.",
    references=("docs/audit.md",),
    find=_find,
)
