"""KB401 padding-leak: what padding holds changes the result."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(-1).mean()  # the mask is not used
"""


def _find(report: Audited) -> str:
    seen = report.masking
    if seen.takes_mask and seen.adds:
        return f"every place of padding adds {seen.adds:.3g} to the result".replace("-", "−")
    if not seen.takes_mask or (seen.padding != "counted" and not report.handling.leaks):
        return ""
    never = ", as the mask is never read" if report.handling.reads_mask is False else ""
    return f"the log-probs in masked places change the result: padding leaks in{never}"


RULE = Rule(
    code="KB401",
    slug="padding-leak",
    group="masking",
    title="What padding holds changes the result",
    checks="Whether other log-probs in masked places change a scalar or a row's number.",
    why="The KL then depends on how the batch was padded, and on what the models say about padding tokens.",
    example=EXAMPLE,
    instead="Multiply by the mask, or select with where, before summing.",
    references=("https://github.com/huggingface/trl/pull/6654",),
    find=_find,
)
