"""KB402 padding-in-the-mean: the mean counts padding."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask).mean()
"""


def _find(report: Audited) -> str:
    return "more padding makes the result smaller: it is divided by the padded width" if report.masking.width else ""


RULE = Rule(
    code="KB402",
    slug="padding-in-the-mean",
    group="masking",
    title="The mean counts padding",
    checks="Whether more padding, of tokens on which the models agree, changes the result.",
    why=(
        "The same sequences give a smaller KL in a longer batch: the penalty falls with the longest answer of "
        "the batch."
    ),
    example=EXAMPLE,
    instead="Divide by the number of rows for nats a sequence, or by mask.sum() for nats a token.",
    references=("https://github.com/huggingface/trl/issues/2995",),
    find=_find,
    severity="warn",
)
