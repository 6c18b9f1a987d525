"""KB503 geometric-mean-ratio: the ratio is a geometric mean."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, off_policy

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, behavior_logprobs):
    x = (logprobs - behavior_logprobs) * mask
    rho = torch.exp(x.sum(-1) / mask.sum(-1))
    return rho * (k3(logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    return off_policy(
        report, "geometric mean", "the weight is the geometric mean of the ratios q/μ, which corrects nothing"
    )


RULE = Rule(
    code="KB503",
    slug="geometric-mean-ratio",
    group="off-policy",
    title="The ratio is a geometric mean",
    checks="Which ratios multiply a token's term, by changing one behaviour log-prob at a time.",
    why="(Π ρ)^(1/T) is no importance weight: its mean is not 1, and nothing it multiplies becomes unbiased.",
    example=EXAMPLE,
    instead="The product of the ratios up to the token: kb.kl_loss(…, behavior_logprobs=…).",
    references=("https://github.com/huggingface/trl/issues/6586",),
    find=_find,
    call=True,
    covered_by=("KB112",),
)
