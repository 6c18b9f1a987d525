"""KB307 excluded-words: words that both models exclude make it nan."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(log_distributions, ref_log_distributions, mask):
    kl = F.kl_div(ref_log_distributions, log_distributions, log_target=True, reduction='none')
    return (kl.sum(-1) * mask).sum(-1)  # nan where both are −inf
"""


def _find(report: Audited) -> str:
    if not report.numerics.excluded_words:
        return ""
    return "words that both models exclude, of log-prob −inf, make the result or its gradient no number"


RULE = Rule(
    code="KB307",
    slug="excluded-words",
    group="numerics",
    title="Words that both models exclude make it nan",
    checks=(
        "Whether two more words of the vocabulary, of probability 0 under both models, change the result or its "
        "gradient."
    ),
    why="Masked vocabularies, top-p and grammars give whole distributions entries of −inf, and 0·(−inf − −inf) is nan.",
    example=EXAMPLE,
    instead="Select before the difference: torch.where(q > -inf, q - p, 0).",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
