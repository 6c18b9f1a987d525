"""KB408 mask-type: another type of mask gives another result."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).masked_fill(~mask.bool() | (~mask != 0), 0).sum(-1)
"""


INTEGERS = ("attention_mask", "completion_mask", "response_mask", "action_mask", "loss_mask", "assistant_mask")
"""Masks that trainers make of integers or floats; of another one it is only said what would happen."""


def _find(report: Audited) -> str:
    found = report.handling.mask_types
    named = "" if report.wires is None else report.wires.parameter("mask")
    if not found or named not in INTEGERS:
        return ""
    return f"a mask of type {' or '.join(found)}, as trainers' {named} is, silently gives another result"


RULE = Rule(
    code="KB408",
    slug="mask-type",
    group="masking",
    title="Another type of mask gives another result",
    checks="Whether a mask of bool, of integers and of floats gives the same result, where it gives one.",
    why="~mask of integers is −1 and −2, and indexing with integers picks rows: the result is wrong without an error.",
    example=EXAMPLE,
    instead="Convert once, at the top: mask = mask.bool().",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
    covered_by=("KB401", "KB402"),
)
