"""KB114 temperature: a temperature on one side only."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

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
    if report.effects.tempered is not None and report.value.target is None:
        by, times = report.effects.tempered
        taken = "" if times == 1.0 else f", {times:.4g} times"
        return f"the logits of both models are divided by {by:.4g}: the KL of two other models{taken}, not of these"
    return ""


RULE = Rule(
    code="KB114",
    slug="temperature",
    group="biased-value",
    title="A temperature that the models do not have",
    checks=(
        "Whether the log-probs of the two models count as much as each other, by moving one at a time; of whole "
        "distributions at which temperature of one model or of both the result is a KL."
    ),
    why=(
        "Log-probs at a temperature are those of another model. On one side: where policy and reference agree the "
        "term is not 0, and its minimum is elsewhere. On both: it is smaller or larger than the models' own."
    ),
    example=EXAMPLE,
    instead="Divide both models' logits by the temperature that tokens are sampled at, or neither's.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB113", "KB117", "KB410"),
)
