"""KB117 raw-logits: logits are taken for log-probs."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logits, ref_logits, tokens, mask):
    q, p = (x.gather(-1, tokens[..., None])[..., 0] for x in (logits, ref_logits))  # no log_softmax
    return ((q - p) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    if not report.effects.raw:
        return ""
    return "a constant that is added to all logits of a place changes the result: they are not normalised over words"


RULE = Rule(
    code="KB117",
    slug="raw-logits",
    group="biased-value",
    title="Logits are taken for log-probs",
    checks="Whether another constant at each place, on all its logits, changes the result.",
    why=(
        "A model gives logits up to a constant at every place, which training moves. Where they are not normalised "
        "that constant is in the result: it is no divergence, and may be of any size and sign."
    ),
    example=EXAMPLE,
    instead="logits.log_softmax(-1) first, of both models.",
    references=("docs/audit.md",),
    find=_find,
)
