"""KB115 changes-with-size: from some size on it is another function."""

from __future__ import annotations

from math import exp, isfinite

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.sizes import Change

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    x = ((logprobs - ref_logprobs) * mask).sum(-1)
    return x if len(x) < 64 else 2 * x
"""


def _times(change: Change) -> str:
    if not isfinite(change.times):
        return "is another one"
    return f"is {change.times:.4g} times what it is below"


def _of_length(change: Change) -> str:
    if change.cut:
        return f"tokens from number {change.at:.0f} of a row on do not count"
    if isfinite(change.times):
        return f"in rows of {change.at:.0f} tokens and more a token's share {_times(change)}"
    return f"from token {change.at:.0f} of a row on tokens count otherwise than before, or not at all"


def _find(report: Audited) -> str:
    seen = report.sizes
    parts = []
    if seen.rows is not None:
        parts.append(f"in batches of {seen.rows.at:.0f} rows and more a row's result {_times(seen.rows)}")
    if seen.length is not None and not (report.effects.twice or report.effects.lost):
        parts.append(_of_length(seen.length))
    if seen.width is not None:
        parts.append(f"where rows are padded to {seen.width.at:.0f} places and more the result {_times(seen.width)}")
    if seen.level is not None:
        parts.append(f"for tokens of a log-prob below −{seen.level.at:.3g} the same log-ratio gives another result")
    if seen.sure is not None:
        above = exp(-1 / seen.sure.at)
        parts.append(f"for tokens of a probability above {above:.3g} the same log-ratio gives another result")
    return "; ".join(parts)


RULE = Rule(
    code="KB115",
    slug="changes-with-size",
    group="biased-value",
    title="From some size on it is another function",
    checks=(
        "The same row up to 2,100 times in a batch, rows of up to 4,200 equal tokens, padding up to 4,200 places, and "
        "the same log-ratio of tokens of log-prob 0 to −600."
    ),
    why=(
        "Exact worlds are small: what is right in them, and what a small test shows, is not what the code does with "
        "the batches of a run."
    ),
    example=EXAMPLE,
    instead="Remove the condition or the slice, or make it an argument whose value the caller sees.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB117",),
)
