"""KB007 not-finite: the value is nan or infinite where the KL is not."""

from __future__ import annotations

from math import isfinite

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(-1) / (mask.sum(-1) - 1)  # 0 for one token
"""


def _find(report: Audited) -> str:
    where = [name for name, value in report.value.got.items() if not isfinite(value)]
    return (
        f"the value is not finite in the world{'s' * (len(where) > 1)} {', '.join(map(repr, where))}" if where else ""
    )


RULE = Rule(
    code="KB007",
    slug="not-finite",
    group="call",
    title="The value is nan or infinite where the KL is not",
    checks="Whether the expectation is finite in every exact world, all of which have a finite KL.",
    why="One such row makes the batch's loss nan and the next step's weights with it.",
    example=EXAMPLE,
    instead="Compute with log-ratios, select with where, and divide by counts of at least 1.",
    references=("docs/theory.md",),
    find=_find,
)
