"""KB103 missing-half: k2 without its ½."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def k2(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) ** 2 * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    form = report.form
    if form is None or form.formula is None or form.formula.name != "k2" or abs(form.scale) != 2.0:
        return ""
    return "one token's formula is ℓ², twice k2 = ½ℓ²: the ½ is missing, and the gradient is twice as large"


RULE = Rule(
    code="KB103",
    slug="missing-half",
    group="biased-value",
    title="k2 without its ½",
    checks="Whether one token's formula is ±ℓ² instead of ½ℓ².",
    why=(
        "The value is twice Schulman's k2, and the gradient twice that of the KL: the coefficient means half "
        "of what it says."
    ),
    example=EXAMPLE,
    instead="0.5 * (logprobs - ref_logprobs) ** 2.",
    references=("Schulman 2020, “Approximating KL Divergence”",),
    find=_find,
)
