"""KB204 unnamed-gradient: the gradient is no named target's."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, meant
from kullback.auditing.words import PLACES, for_one_token, name, range_of_errors

EXAMPLE = """\
def penalty(logprobs, ref_logprobs, mask):  # in the reward
    x = ref_logprobs - logprobs
    return torch.expm1(x) - x
"""


def _find(report: Audited) -> str:
    gradient = report.gradient
    if report.placement == "metric" or gradient.named is not None or not gradient.errors:
        return ""
    nearest = f"{meant(report, 'gradient')}that of {name(gradient.nearest)}"
    return (
        f"the gradient {PLACES[report.placement]} is no named target's: {nearest} is missed by "
        f"{range_of_errors(gradient)} across the exact worlds{for_one_token(gradient, 'that of ')}"
    )


RULE = Rule(
    code="KB204",
    slug="unnamed-gradient",
    group="biased-gradient",
    title="The gradient is no named target's",
    checks="Whether the expected gradient equals that of a named target, up to a scale, in every exact world.",
    why=(
        "The update has no objective that anyone has named: where it leads depends on the lengths, the clamps "
        "or the batch."
    ),
    example=EXAMPLE,
    instead="kb.kl_loss, or kb.kl_reward with k1.",
    references=("Tang & Munos 2025, arXiv 2506.09477", "docs/theory.md, “Losses”"),
    find=_find,
    call=True,
    covered_by=(
        "KB210",
        "KB105",
        "KB208",
        "KB401",
        "KB402",
        "KB403",
        "KB404",
        "KB110",
        "KB112",
        "KB114",
        "KB209",
        "KB409",
        "KB410",
        "KB008",
        "KB113",
        "KB117",
        "KB118",
    ),
)
