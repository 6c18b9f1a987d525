"""KB114 temperature: a temperature on one side, or on both."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import times

EXAMPLE = """\
def kl(logits, ref_logits, mask):
    q, p = (logits / 0.7).log_softmax(-1), ref_logits.log_softmax(-1)
    return ((q.exp() * (q - p)).sum(-1) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    share = report.effects.temperature
    if share != 1.0:
        return f"the policy's log-prob counts {share:.3g} times as much as the reference's: a temperature on one side"
    if (scaled := report.effects.scaled) != 1.0:
        sides = f"the policy's logits are divided by {scaled:.3g}, or the reference's by {1 / scaled:.3g}"
        return f"{sides}, and the other's are not: of two models that are one the result is not 0"
    if (both := report.effects.both_scaled) != 1.0:
        of = f"{times(report.effects.times)}the KL of the models at a temperature of {both:.3g}"
        return f"both models' logits are divided by {both:.3g}: it is {of}, not of those that sample"
    return ""


RULE = Rule(
    code="KB114",
    slug="temperature",
    group="biased-value",
    title="A temperature on one side, or on both",
    checks=(
        "Whether the log-probs of the two models count as much as each other, by moving one at a time; of whole "
        "distributions, whether the result is a KL at another temperature, by three pairs of models."
    ),
    why=(
        "Log-probs at a temperature are those of another model: where policy and reference agree the term is not 0, "
        "and its minimum is elsewhere. On both sides it is 0 where they agree, and another number where they do not."
    ),
    example=EXAMPLE,
    instead="Divide both models' logits by the temperature that samples, or neither's.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB113", "KB410"),
)
