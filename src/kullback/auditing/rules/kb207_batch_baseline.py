"""KB207 batch-baseline: a baseline from the same batch shrinks the gradient."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import PLACES, name

EXAMPLE = """\
def penalty(logprobs, ref_logprobs, mask):  # in the reward
    x = ((logprobs - ref_logprobs) * mask).sum(-1)
    return x - x.mean()
"""


def _find(report: Audited) -> str:
    if not report.batches or len(set(report.batches.values())) == 1 or report.gradient.target is None:
        return ""
    scales = " and ".join(f"{scale:.3g} with {rows} rows" for rows, scale in report.batches.items())
    return (
        f"the gradient {PLACES[report.placement]} is that of {name(report.gradient.target)} times {scales}: "
        "a baseline that sees the row itself shrinks it"
    )


RULE = Rule(
    code="KB207",
    slug="batch-baseline",
    group="biased-gradient",
    title="A baseline from the same batch shrinks the gradient",
    checks="The scale of the expected gradient for batches of two and of three rows, by enumerating every batch.",
    why=(
        "A mean that includes the row itself subtracts part of its own signal: the gradient is 1 − 1/n of "
        "what it should be with n samples of a prompt, half of it with two."
    ),
    example=EXAMPLE,
    instead="Leave the row out: kb.kl_loss(…, baseline='leave_one_out').",
    references=("docs/theory.md, “Losses”",),
    covered_by=("KB116",),
    find=_find,
)
