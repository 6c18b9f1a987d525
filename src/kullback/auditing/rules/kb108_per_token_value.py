"""KB108 per-token-value: a mean over tokens, not the KL of sequences."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs - ref_logprobs) * mask).sum() / mask.sum()
"""


def _find(report: Audited) -> str:
    if report.conduct.coupling == "token mean":
        return (
            "the result is a mean over the tokens of the batch: nats a token, not a sequence, and the longer "
            "sequences of a batch weigh more"
        )
    if report.value.per == "length" or (report.masking.length == "mean" and report.masking.width is False):
        return (
            "every sequence's sum is divided by its own length: nats a token in which short sequences weigh more, "
            "not the KL of sequences"
        )
    return ""


RULE = Rule(
    code="KB108",
    slug="per-token-value",
    group="biased-value",
    title="A mean over tokens, not the KL of sequences",
    checks="Whether the result divides by numbers of tokens.",
    why=(
        "Nats a token and nats a sequence differ by the length. A mean of each sequence's own mean is "
        "neither: short sequences count more, and k1, k3 and the exact token KL give three different limits. "
        "A controller tuned for one is wrong for the other."
    ),
    example=EXAMPLE,
    instead=(
        "Sum over tokens and take the mean over rows for nats a sequence, or kb.estimate(…, unit='token') for "
        "the ratio of totals with its error."
    ),
    references=("docs/theory.md", "https://github.com/CarperAI/trlx/issues/438"),
    find=_find,
    severity="warn",
)
