"""KB210 not-k1-in-reward: in the reward, only k1 follows the KL."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import PLACES, away, name
from kullback.targets import REVERSE_KL

EXAMPLE = """\
def penalty(logprobs, ref_logprobs, mask):  # in the reward
    x = ref_logprobs - logprobs
    return torch.expm1(x) - x
"""


def _find(report: Audited) -> str:
    gradient = report.gradient
    if not report.options.credited or gradient.named is not None or report.value.named is not REVERSE_KL:
        return ""
    missed = report.meant["gradient"]
    return (
        f"the value is {name(REVERSE_KL)}, but {PLACES[report.placement]} this formula does not follow its gradient: "
        f"off that of {name(missed.target)} by {away(missed)}"
    )


RULE = Rule(
    code="KB210",
    slug="not-k1-in-reward",
    group="biased-gradient",
    title="In the reward, only k1 follows the KL",
    checks="Whether the value is KL(q‖p) and the gradient in the reward is not.",
    why=(
        "In the reward the value's formula is differentiated through the log-prob only. k3 has the KL's mean, "
        "and its gradient there is biased: at the level of sequences it is ∇KL(q‖p) − ∇KL(p‖q)."
    ),
    example=EXAMPLE,
    instead="kb.kl_reward(logprobs, ref_logprobs, mask, estimator=kb.K1).",
    references=("Tang & Munos 2025, arXiv 2506.09477", "https://github.com/huggingface/trl/issues/7086"),
    find=_find,
    call=True,
)
