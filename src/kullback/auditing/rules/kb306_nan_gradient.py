"""KB306 nan-gradient: the gradient is nan where the value is finite."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
torch.exp(-x).sub(1).add(x).clamp(-10, 10)  # 0 · inf beyond 88 nats
"""


def _find(report: Audited) -> str:
    at = report.numerics.nan_gradient
    if report.placement != "loss" or not at > 0:
        return ""
    return f"in float32 the derivative is nan or inf from a log-ratio of {at:.3g} nats on"


RULE = Rule(
    code="KB306",
    slug="nan-gradient",
    group="numerics",
    title="The gradient is nan where the value is finite",
    checks=(
        "The smallest log-ratio at which the float32 derivative is nan or inf though the formula's value is in range."
    ),
    why="A clamp after an overflow makes the value look right and the gradient nan, which ends the run.",
    example=EXAMPLE,
    instead="Clamp, or select with where, before the exponential.",
    references=("https://github.com/OpenRLHF/OpenRLHF/pull/1335",),
    find=_find,
    severity="warn",
)
