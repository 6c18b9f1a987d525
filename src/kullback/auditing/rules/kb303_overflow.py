"""KB303 overflow: it overflows where the number itself fits."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
w = torch.exp(logprobs) / torch.exp(ref_logprobs)  # 0/0 beyond 103 nats
"""


def _find(report: Audited) -> str:
    at = report.numerics.overflow
    return f"in float32 the value is inf or nan from a log-ratio of {at:.3g} nats on" if at > 0 else ""


RULE = Rule(
    code="KB303",
    slug="overflow",
    group="numerics",
    title="It overflows where the number itself fits",
    checks="The smallest log-ratio at which float32 gives inf or nan though the formula's value is in range.",
    why="One token that the policy and the reference disagree about makes the whole batch's loss inf or nan.",
    example=EXAMPLE,
    instead="Work with log-probs and exponentiate their difference; select with where before, not after.",
    references=("https://github.com/huggingface/trl/issues/3015",),
    find=_find,
    severity="warn",
)
