"""KB311 other-precision: in another precision it computes something else."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import percent

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    x = (logprobs - ref_logprobs) * mask
    return x.sum(-1) if x.dtype == torch.float64 else x.abs().sum(-1)
"""


def _find(report: Audited) -> str:
    seen = report.constancy.types
    if not seen:
        return ""
    which = " and ".join(f"in {name} the result is off by {percent(error)}" for name, error in seen)
    return f"{which}, which no rounding explains: it computes something else"


RULE = Rule(
    code="KB311",
    slug="other-precision",
    group="numerics",
    title="In another precision it computes something else",
    checks=(
        "Four rows of moderate log-probs, exactly representable, in float64 and in float32, bfloat16 and float16: "
        "differences of more than 0.1%, and of more than half in the latter two."
    ),
    why="Runs use float32 and bfloat16: what is right in a float64 test is then not what is trained with.",
    example=EXAMPLE,
    instead="One formula for every dtype; where one needs more digits, compute in it and cast the result.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB401",),
)
