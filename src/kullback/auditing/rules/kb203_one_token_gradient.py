"""KB203 one-token-gradient: the gradient is exact for one token, not for sequences."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, versions
from kullback.auditing.words import PLACES, name

EXAMPLE = """\
def k2(logprobs, ref_logprobs, mask):
    return (0.5 * (logprobs - ref_logprobs) ** 2 * mask).sum(-1).mean()  # in the loss
"""


def _find(report: Audited) -> str:
    target, goal = report.gradient.named, report.goal
    if report.placement == "metric" or target is None or target not in versions(goal):
        return ""
    return (
        f"the gradient {PLACES[report.placement]} is that of {name(target)}: exact for one token, not for sequences, "
        "where it leaves out how a token changes what comes after it"
    )


RULE = Rule(
    code="KB203",
    slug="one-token-gradient",
    group="biased-gradient",
    title="The gradient is exact for one token, not for sequences",
    checks="Whether the expected gradient is that of the statewise version of the target: prefixes held fixed.",
    why=(
        "It leaves out how a token changes what comes after it. For single tokens the two are the same; over "
        "long sequences the missing part can be most of the gradient."
    ),
    example=EXAMPLE,
    instead=(
        "kb.kl_loss(…, objective=kb.REVERSE_KL); or, if statewise is meant, say so: objective=kb.STATEWISE_REVERSE_KL."
    ),
    references=("Tang & Munos 2025, arXiv 2506.09477", "docs/theory.md, “Losses”"),
    find=_find,
    severity="warn",
    covered_by=("KB209", "KB112", "KB410"),
)
