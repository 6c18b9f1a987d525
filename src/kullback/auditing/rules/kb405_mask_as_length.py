"""KB405 mask-as-length: the mask is taken for a length."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    keep = torch.arange(mask.shape[1]) < mask.sum(-1, keepdim=True)
    return ((logprobs - ref_logprobs) * keep).sum(-1)
"""


def _find(report: Audited) -> str:
    seen = report.handling
    places = [words for words, found in (("before", seen.left), ("between", seen.holes)) if found]
    if not places:
        return ""
    return (
        f"masked places {' and '.join(places)} the counted tokens change the result, though padding after them does not"
    )


RULE = Rule(
    code="KB405",
    slug="mask-as-length",
    group="masking",
    title="The mask is taken for a length",
    checks="Whether masked places before or between the counted tokens change what counts.",
    why=(
        "Prompts, tool results and left padding put masked places before and between the tokens that count: other "
        "tokens are then penalised, and some of those that count are not."
    ),
    example=EXAMPLE,
    instead="Multiply by the mask itself, or select with where.",
    references=("docs/audit.md",),
    find=_find,
    covered_by=("KB117", "KB118", "KB401", "KB402", "KB403", "KB404", "KB406", "KB409", "KB410"),
)
