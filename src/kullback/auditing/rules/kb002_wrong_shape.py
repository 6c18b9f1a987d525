"""KB002 wrong-shape: the result is neither a number, one a row, nor one a token."""

from __future__ import annotations

from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(0)  # sums over the batch
"""

RULE = Rule(
    code="KB002",
    slug="wrong-shape",
    group="call",
    title="The result is neither a number, one a row, nor one a token",
    checks="The shape of what comes back for four sequences of three tokens.",
    why=("A result that broadcasts against a (batch, time) mask later is summed the wrong number of times, silently."),
    example=EXAMPLE,
    instead="Return a scalar, (batch,) or (batch, time); of several results name one with output=… (--output).",
    references=("docs/audit.md",),
    stops=True,
)
