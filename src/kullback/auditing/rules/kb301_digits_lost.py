"""KB301 digits-lost: near zero the float32 value is rounding."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
torch.exp(x) - 1 - x  # float32, x = 1e-4: off by 100%
"""


def _find(report: Audited) -> str:
    below = report.numerics.lost_below
    if not below > 5e-4:
        return ""
    return f"in float32 the value is off by more than 1% for log-ratios below {below:.1g} nats"


RULE = Rule(
    code="KB301",
    slug="digits-lost",
    group="numerics",
    title="Near zero the float32 value is rounding",
    checks="The log-ratio below which the float32 value is off by more than 1%.",
    why=(
        "Early in training the log-ratios are small, and exp(x) − 1 − x subtracts nearly equal numbers: the "
        "KL of a healthy run is noise."
    ),
    example=EXAMPLE,
    instead="kb.K3, or expm1 and a series near zero.",
    references=("https://github.com/google/tunix/issues/2315",),
    find=_find,
    covered_by=("KB310", "KB115", "KB311"),
    severity="warn",
)
