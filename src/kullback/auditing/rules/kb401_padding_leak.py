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
    if seen.padding != "counted" or not seen.takes_mask:
        return ""
    return "the log-probs in masked places change the result: padding leaks in"


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
