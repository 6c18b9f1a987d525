"""KB308 swallowed-overflow: an overflow is replaced by a number."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def k3(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return torch.nan_to_num(torch.exp(x) - 1 - x, posinf=0.0)
"""


def _find(report: Audited) -> str:
    found = report.numerics
    if found.swallowed in ("", "nan"):
        return ""
    where = f"from |ℓ| = {found.swallowed_from:.3g} nats on, where the formula overflows"
    return f"{where}, it gives {found.swallowed} and not inf"


RULE = Rule(
    code="KB308",
    slug="swallowed-overflow",
    group="numerics",
    title="An overflow is replaced by a number",
    checks="What float32 gives at log-ratios at which the formula itself is beyond float32's range.",
    why=(
        "The tokens furthest from the reference count for nothing or for an arbitrary number, without a sign of it "
        "in the logs."
    ),
    example=EXAMPLE,
    instead="Let it be inf and count how often, or use a formula that does not overflow: k1 has none.",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
