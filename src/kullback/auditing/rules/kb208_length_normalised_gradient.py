"""KB208 length-normalised-gradient: each sequence's gradient is divided by a number of tokens."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.words import name, times
from kullback.targets import ZERO

EXAMPLE = """\
def loss(logprobs, ref_logprobs, mask):
    x = 0.5 * (logprobs - ref_logprobs) ** 2
    return ((x * mask).sum(-1) / mask.sum(-1)).mean()
"""


def _find(report: Audited) -> str:
    if report.placement == "metric" or report.gradient.named is ZERO:
        return ""
    after = (
        f"; undone, it is that of {times(report.gradient.factor)}{name(report.gradient.named)}"
        if (report.gradient.named and report.gradient.per == "length")
        else ""
    )
    if report.conduct.coupling == "token mean":
        return f"the gradient is divided by the number of tokens in the batch, which sequences share by chance{after}"
    if report.gradient.per == "length" or (report.masking.length == "mean" and report.masking.width is False):
        return f"every sequence's gradient is divided by its own length{after}"
    return ""


RULE = Rule(
    code="KB208",
    slug="length-normalised-gradient",
    group="biased-gradient",
    title="Each sequence's gradient is divided by a number of tokens",
    checks="Whether dividing by the length, undone, makes the gradient a named target's.",
    why=(
        "Tokens of short sequences are held to the reference more tightly than those of long ones, which pays "
        "for length; the result is no divergence's gradient."
    ),
    example=EXAMPLE,
    instead="Sum over tokens, and divide by the number of rows or by a constant.",
    references=("Liu et al. 2025, “Understanding R1-Zero-Like Training”, arXiv 2503.20783", "docs/theory.md, “Losses”"),
    find=_find,
    severity="warn",
)
