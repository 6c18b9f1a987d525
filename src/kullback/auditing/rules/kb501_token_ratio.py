"""KB501 token-ratio: each token is corrected for its own ratio only."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, off_policy

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask, behavior_logprobs):
    rho = torch.exp(logprobs - behavior_logprobs)
    return (rho * k3(logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    return off_policy(report, "token", "every token is weighted by its own ratio q/μ, not by that of its prefix")


RULE = Rule(
    code="KB501",
    slug="token-ratio",
    group="off-policy",
    title="Each token is corrected for its own ratio only",
    checks="Which ratios multiply a token's term, by changing one behaviour log-prob at a time.",
    why=(
        "ρ_t mends the token and leaves the prefix as another policy drew it: exact for one token, biased for "
        "sequences."
    ),
    example=EXAMPLE,
    instead="The product of the ratios up to the token: kb.kl_loss(…, behavior_logprobs=…).",
    references=("DeepSeek-V3.2, arXiv 2512.02556, eq. (7)", "docs/theory.md, “Losses”"),
    find=_find,
    call=True,
    covered_by=("KB502", "KB112"),
)
