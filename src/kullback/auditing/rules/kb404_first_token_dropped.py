"""KB404 first-token-dropped: the first token does not count."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs)[:, 1:] * mask[:, 1:]).sum(-1)
"""


def _find(report: Audited) -> str:
    return "the first token of a sequence has no effect" if report.masking.first_counts is False else ""


RULE = Rule(
    code="KB404",
    slug="first-token-dropped",
    group="masking",
    title="The first token does not count",
    checks="Whether changing the first token's log-probs changes the result.",
    why="Log-probs and mask are shifted against each other by one: the first sampled token is left out.",
    example=EXAMPLE,
    instead="Align them: log-prob t and mask t belong to the token at t.",
    references=("docs/theory.md, “Losses”",),
    find=_find,
    covered_by=("KB410",),
)
