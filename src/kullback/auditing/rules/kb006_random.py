"""KB006 random: two calls on the same input differ."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    keep = torch.rand_like(logprobs) > 0.5
    return ((logprobs - ref_logprobs) * mask * keep).sum(-1)
"""


def _find(report: Audited) -> str:
    return "two calls on the same input differ" if report.conduct.random and not report.constancy.stateful else ""


RULE = Rule(
    code="KB006",
    slug="random",
    group="call",
    title="Two calls on the same input differ",
    checks="Whether two calls on the same arrays agree to rounding.",
    why="An expectation over sequences says nothing about a function that adds noise of its own.",
    example=EXAMPLE,
    instead="Pass random numbers in as an argument, fixed for the audit.",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
