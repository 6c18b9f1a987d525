"""KB101 biased-value: the value is no named quantity."""

from __future__ import annotations

from kullback.auditing.probes import HALF
from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, meant
from kullback.auditing.words import for_one_token, name, range_of_errors
from kullback.targets import ZERO

EXAMPLE = """\
def k2(logprobs, ref_logprobs, mask):
    return (0.5 * (logprobs - ref_logprobs) ** 2 * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    value = report.value
    if value.named is ZERO and report.placement == "metric":
        return "the value is 0 on average, whatever the models are"
    # Of what computes in half precision no formula is met: KB305 says so.
    if value.named is not None or not value.errors or report.numerics.arithmetic >= HALF:
        return ""
    missed = meant(report, "value")
    return (
        f"the value is no named quantity: {missed}{name(value.nearest)} is missed by {range_of_errors(value)} "
        f"across the exact worlds{for_one_token(value)}"
    )


RULE = Rule(
    code="KB101",
    slug="biased-value",
    group="biased-value",
    title="The value is no named quantity",
    checks="Whether the expectation equals one of the named targets, up to a scale, in every exact world.",
    why=(
        "A number that is logged, alerted on or fed to a controller as the KL is not the KL, and no amount of "
        "data mends it."
    ),
    example=EXAMPLE,
    instead="Log kb.estimate(logprobs, ref_logprobs, mask, estimator=kb.K3): unbiased, with an error.",
    references=("Schulman 2020, “Approximating KL Divergence”", "docs/estimators.md"),
    find=_find,
    call=True,
    covered_by=(
        "KB007",
        "KB102",
        "KB103",
        "KB104",
        "KB105",
        "KB106",
        "KB107",
        "KB110",
        "KB111",
        "KB401",
        "KB403",
        "KB404",
        "KB112",
        "KB114",
        "KB310",
        "KB409",
        "KB410",
        "KB008",
        "KB113",
        "KB117",
        "KB118",
    ),
)
