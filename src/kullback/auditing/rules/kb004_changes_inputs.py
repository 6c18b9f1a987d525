"""KB004 changes-inputs: the function changes its inputs in place."""

from __future__ import annotations

from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    ref_logprobs -= logprobs
    return -(ref_logprobs * mask).sum(-1)
"""

RULE = Rule(
    code="KB004",
    slug="changes-inputs",
    group="call",
    title="The function changes its inputs in place",
    checks="Whether the arrays are the same after the call.",
    why="The caller goes on to use the same log-probs in the policy's loss, and they are no longer log-probs.",
    example=EXAMPLE,
    instead="Compute into a new array: x = ref_logprobs - logprobs.",
    references=("docs/audit.md",),
    stops=True,
)
