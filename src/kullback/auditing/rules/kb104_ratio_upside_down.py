"""KB104 ratio-upside-down: k3 with the ratio upside down."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def k3(logprobs, ref_logprobs, mask):
    x = logprobs - ref_logprobs
    return ((torch.exp(x) - 1 - x) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    form = report.form
    if report.sampler == "from_reference" or form is None or form.formula is None:
        return ""
    if form.formula.name != "k3_upside_down":
        return ""
    return (
        "one token's formula is k3 with the ratio upside down, q/p − 1 − log(q/p): for samples of the policy its mean "
        "is χ²(q‖p) − KL(q‖p); for samples of the reference it would be KL(p‖q)"
    )


RULE = Rule(
    code="KB104",
    slug="ratio-upside-down",
    group="biased-value",
    title="k3 with the ratio upside down",
    checks="Whether one token's formula is k3 of −ℓ, 1/r − 1 − ℓ with r = p/q, for samples of the policy.",
    why=(
        "Its mean is χ²(q‖p) − KL(q‖p): close to the KL when the models are close, and many times it when "
        "they are not. The mistake is invisible early in training."
    ),
    example=EXAMPLE,
    instead=(
        "x = ref_logprobs - logprobs; torch.expm1(x) - x. The other way round is right for samples of the "
        "reference, and then estimates KL(p‖q)."
    ),
    references=("Schulman 2020, “Approximating KL Divergence”",),
    find=_find,
)
