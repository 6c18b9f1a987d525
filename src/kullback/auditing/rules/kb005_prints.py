"""KB005 prints: the function writes to the terminal."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    print("kl", logprobs.shape)
    return ((logprobs - ref_logprobs) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    if not report.conduct.printed:
        return ""
    return f"the function prints {report.conduct.printed.splitlines()[0][:60]!r} when it is called"


RULE = Rule(
    code="KB005",
    slug="prints",
    group="call",
    title="The function writes to the terminal",
    checks="What the calls write to stdout and stderr.",
    why="A print in a per-step function of every worker floods logs and costs time.",
    example=EXAMPLE,
    instead="Remove it, or use logging.",
    references=("docs/audit.md",),
    find=_find,
    severity="warn",
)
