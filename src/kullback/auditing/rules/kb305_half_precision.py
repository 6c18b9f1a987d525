"""KB305 half-precision: in bfloat16 the value is rounding."""

from __future__ import annotations

from kullback.auditing.probes import HALF
from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import percent

EXAMPLE = """\
def k3(logprobs, ref_logprobs):  # bfloat16 in, bfloat16 throughout
    x = ref_logprobs - logprobs
    return torch.exp(x) - 1 - x
"""


def _find(report: Audited) -> str:
    if report.numerics.half_error > 0 or (report.numerics.arithmetic >= HALF and not report.numerics.step):
        size = report.numerics.half_error
        by = f": near the reference the result is off by up to {percent(size)}" if size > 0 else ""
        return f"the function computes in half precision, whatever it is given{by}"
    error = report.numerics.bfloat16_error
    return f"for bfloat16 log-probs the value is off by up to {percent(error)}" if error > 0.1 else ""


RULE = Rule(
    code="KB305",
    slug="half-precision",
    group="numerics",
    title="In bfloat16 the value is rounding",
    checks="The largest relative error for bfloat16 log-probs between 0.01 and 8 nats apart.",
    why=(
        "Log-probs that arrive in bfloat16 are computed in bfloat16: three digits, of which a difference keeps fewer."
    ),
    example=EXAMPLE,
    instead="Convert to float32 first, as kb.K3 and kb.kl_loss do.",
    references=("docs/theory.md",),
    find=_find,
    covered_by=("KB115", "KB311"),
    severity="warn",
)
