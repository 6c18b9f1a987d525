"""KB111 batch-coupled-value: what a row gives depends on the other rows."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.targets import ZERO

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    x = ((logprobs - ref_logprobs) * mask).sum(-1)
    return x - x.mean()
"""


def _find(report: Audited) -> str:
    if report.conduct.coupling != "coupled" or (report.value.target is not None and report.value.target is not ZERO):
        return ""
    if report.options.credited and report.gradient.target not in (None, ZERO):
        # A baseline: what it subtracts has no mean, and the gradient is what counts.
        return ""
    what = "0 whatever the models are" if report.value.target is ZERO else "no named quantity"
    return f"a row's result depends on the other rows of its batch, and its mean is {what}"


RULE = Rule(
    code="KB111",
    slug="batch-coupled-value",
    group="biased-value",
    title="What a row gives depends on the other rows",
    checks="Whether two sequences in one batch give the mean, the sum or the token mean of what they give alone.",
    why=(
        "Centred or whitened by its own batch, the mean of the result is 0 or depends on the batch size: it "
        "cannot be logged as a KL."
    ),
    example=EXAMPLE,
    instead="Log the value before centring.",
    references=("docs/theory.md",),
    covered_by=("KB116",),
    find=_find,
)
