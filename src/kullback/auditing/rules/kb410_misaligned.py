"""KB410 misaligned: tokens of different places are compared."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs[:, 1:] - ref_logprobs[:, :-1]) * mask[:, 1:]).sum(-1)
"""


def _find(report: Audited) -> str:
    shift = report.effects.shift
    if not shift:
        return ""
    where = "t − 1" if shift == "late" else "t + 1"
    return f"the policy's token t is compared with the reference's {where}: the two are one token apart"


RULE = Rule(
    code="KB410",
    slug="misaligned",
    group="masking",
    title="Tokens of different places are compared",
    checks=(
        "Whether moving the policy's log-prob of a token and the reference's of its neighbour by as much leaves the "
        "result as it is."
    ),
    why=(
        "Log-probs of two models that are shifted against each other are of different tokens: their difference is "
        "no log-ratio."
    ),
    example=EXAMPLE,
    instead="Slice both the same way: log-prob t of both is of the token at t.",
    references=("docs/audit.md",),
    find=_find,
)
