"""KB106 not-zero: the value is not 0 where the models agree."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import name
from kullback.targets import CROSS_ENTROPY, STATEWISE_CROSS_ENTROPY

EXAMPLE = """\
def k3(logprobs, ref_logprobs, mask):
    x = ref_logprobs - logprobs
    return ((torch.exp(x) - x) * mask).sum(-1)  # − 1 is missing
"""


def _find(report: Audited) -> str:
    if report.value.named in (CROSS_ENTROPY, STATEWISE_CROSS_ENTROPY) and report.objective is None:
        return f"the value is {name(report.value.named)}: of one and the same model it is the entropy and not 0"
    alone = report.effects.scaled == 1.0 and report.effects.tempered is None
    if abs(report.effects.agreeing) > 1e-5 and report.value.target is None and alone:
        each = "a token" if report.conduct.kind == "token" else "a row"
        size = f"{report.effects.agreeing:.3g}".replace("-", "−")
        return f"of one and the same model it is as much as {size} nats {each} and not 0"
    at_zero = report.effects.bonus or (0.0 if report.form is None else report.form.at_zero)
    if abs(at_zero) < 1e-5 or report.value.target is not None or report.effects.temperature != 1.0:
        return ""
    pays = "" if not report.effects.bonus else f", every token, so that length {'costs' if at_zero > 0 else 'pays'}"
    return f"a token on which the two models agree gives {at_zero:.4g} instead of 0{pays}"


RULE = Rule(
    code="KB106",
    slug="not-zero",
    group="biased-value",
    title="The value is not 0 where the models agree",
    checks="What one token gives when its two log-probs are the same, or its two distributions.",
    why=(
        "Before the first step, when policy and reference are one model, the KL is 0. An offset that grows "
        "with the length is not a divergence."
    ),
    example=EXAMPLE,
    instead="torch.expm1(x) - x.",
    references=("Schulman 2020, “Approximating KL Divergence”",),
    find=_find,
    covered_by=("KB113", "KB117", "KB410"),
)
