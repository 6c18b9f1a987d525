"""KB302 negative: rounding makes a divergence negative."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
torch.exp(x) - 1 - x  # float32, x = 1e-4: can be −6e-8
"""


def _find(report: Audited) -> str:
    at = report.numerics.negative_at
    return f"in float32 the value can be negative by rounding, as at a log-ratio of {at:.1g} nats" if at > 1e-6 else ""


RULE = Rule(
    code="KB302",
    slug="negative",
    group="numerics",
    title="Rounding makes a divergence negative",
    checks="Whether a formula that is never negative gives a negative float32 number.",
    why="A negative KL in the logs is read as a bug, and a square root or a logarithm of it is nan.",
    example=EXAMPLE,
    instead="kb.K3, which keeps the sign; expm1(x) − x reduces it and does not remove it.",
    references=("https://github.com/huggingface/trl/issues/925",),
    find=_find,
    covered_by=("KB115", "KB311"),
    severity="warn",
)
