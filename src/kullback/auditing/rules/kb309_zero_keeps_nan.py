"""KB309 zero-keeps-nan: a coefficient of 0 keeps nan."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def loss(logprobs, ref_logprobs, mask, beta=0.0):
    x = ref_logprobs - logprobs
    return beta * ((torch.exp(x) - 1 - x) * mask).sum(-1).mean()
"""


def _find(report: Audited) -> str:
    if not report.numerics.zero_keeps:
        return ""
    return "with a coefficient of 0, one token far from the reference still makes the result nan or infinite"


RULE = Rule(
    code="KB309",
    slug="zero-keeps-nan",
    group="numerics",
    title="A coefficient of 0 keeps nan",
    checks="Whether, with a coefficient of 0, one token far from the reference still makes the result nan or infinite.",
    why="0·inf is nan: a run that switches its KL off still ends when the reference excludes a sampled token.",
    example=EXAMPLE,
    instead="Leave the term out where the coefficient is 0: if beta: loss = loss + beta * kl.",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
