"""KB008 keeps-state: what a call gives depends on the calls before it."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
CACHE = {}
def kl(logprobs, ref_logprobs, mask):
    if logprobs.shape not in CACHE:
        CACHE[logprobs.shape] = (logprobs - ref_logprobs) * mask
    return CACHE[logprobs.shape].sum(-1)
"""


def _find(report: Audited) -> str:
    seen = report.constancy
    if seen.stateful:
        return "two calls on the same input differ: it keeps something between them"
    if seen.kept:
        return "another batch of the same shape gives the first one's result: it is kept from an earlier call"
    if seen.later:
        return "the first call, made again after the others, gives another result: it keeps something between calls"
    return ""


RULE = Rule(
    code="KB008",
    slug="keeps-state",
    group="call",
    title="What a call gives depends on the calls before it",
    checks="The first call again at the end of the audit, and two different batches of one shape.",
    why=(
        "A cache by shape, a running mean or a counter makes the number another one in another run, after a restart "
        "or on another worker; everything else that an audit says holds for its own calls only."
    ),
    example=EXAMPLE,
    instead="Pass what it keeps in as an argument, and return it.",
    references=("docs/audit.md",),
    find=_find,
)
