"""KB110 part-of-vocabulary: only part of the vocabulary counts."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def topk(log_distributions, ref_log_distributions, mask):
    q, i = log_distributions.topk(8)
    p = ref_log_distributions.gather(-1, i)
    q, p = q.log_softmax(-1), p.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1)
"""


def _find(report: Audited) -> str:
    words = report.words
    if words is None:
        return ""
    if words.part is not None:
        seen, vocab = words.part
        return f"of a vocabulary of {vocab:,} words only {seen:,} have any effect on the result"
    seen, vocab = words.seen, words.of
    # Where a single token has no effect at all, it is not its words that are left out.
    if report.value.target is not None or not 0 < seen < vocab:
        return ""
    if words.bucketed:
        return f"all but {seen} of {vocab} tokens of the vocabulary count as one: a lower bound, and not the KL"
    return f"only {seen} of {vocab} tokens of the vocabulary have any effect on the result"


RULE = Rule(
    code="KB110",
    slug="part-of-vocabulary",
    group="biased-value",
    title="Only part of the vocabulary counts",
    checks=(
        "Whether changing the log-prob of every token of the vocabulary changes the result, beside what each has by "
        "the sum that logits are normalised by: of eight words where the value is no named target, and of 300,000."
    ),
    why=(
        "A KL of renormalised top-k heads is a lower bound of neither direction that can go to 0 while the "
        "tails differ, and unnormalised heads go negative."
    ),
    example=EXAMPLE,
    instead="Put what is left out into one more bucket for a lower bound, or sum over the whole vocabulary.",
    references=("https://github.com/verl-project/verl/issues/7856", "docs/estimators.md"),
    find=_find,
    covered_by=("KB117", "KB410"),
)
