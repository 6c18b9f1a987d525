"""KB209 own-token-credit: each token pays for itself only."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule, versions
from kullback.auditing.words import name

EXAMPLE = """\
advantages = advantages - beta * (logprobs - ref_logprobs)  # a token's own, no return
"""


def _find(report: Audited) -> str:
    target = report.gradient.named
    if not report.options.credited or report.credit != "own_token" or report.conduct.kind != "token":
        return ""
    if target is not None and target is report.goal:
        return ""
    if target is None or target not in versions(report.goal):
        what = "no named target's" if target is None else f"that of {name(target)}"
        return f"every token is credited with its own penalty only, without reward-to-go: the gradient is {what}"
    return (
        f"credited with its own penalty only, without reward-to-go, the gradient is that of {name(target)}: "
        "exact for one token, not for sequences"
    )


RULE = Rule(
    code="KB209",
    slug="own-token-credit",
    group="biased-gradient",
    title="Each token pays for itself only",
    checks="Whether, in the reward with own-token credit, the gradient is the statewise one.",
    why="A penalty without reward-to-go never tells a token that it leads where the models differ.",
    example=EXAMPLE,
    instead="Credit each token with the sum of the penalties from itself on, or with the sequence's sum.",
    references=("Tang & Munos 2025, arXiv 2506.09477", "docs/theory.md, “Losses”"),
    find=_find,
)
