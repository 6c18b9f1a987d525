"""KB410 misaligned: tokens of different places are compared."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule
from kullback.auditing.vocabulary import Words

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return ((logprobs[:, 1:] - ref_logprobs[:, :-1]) * mask[:, 1:]).sum(-1)
"""


def _find(report: Audited) -> str:
    if report.words is not None and (report.words.policy_shift or report.words.reference_shift):
        return _of_distributions(report.words)
    shift = report.effects.shift
    if not shift:
        return ""
    where = "t − 1" if shift == "late" else "t + 1"
    return f"the policy's token t is compared with the reference's {where}: the two are one token apart"


def _of_distributions(words: Words) -> str:
    """Which distribution is read at the token of another place."""
    shifts = (("policy", words.policy_shift), ("reference", words.reference_shift))
    which = [(f"the {whose}'s", "t + 1" if shift > 0 else "t − 1") for whose, shift in shifts if shift]
    owner = " and ".join(whose for whose, _ in which)
    return f"{owner} distribution of place t is read at the token of place {which[0][1]}: they are one token apart"


RULE = Rule(
    code="KB410",
    slug="misaligned",
    group="masking",
    title="Tokens of different places are compared",
    checks=(
        "Whether moving the policy's log-prob of a token and the reference's of its neighbour by as much leaves the "
        "result as it is; of functions of distributions and token ids, at which token each distribution is read."
    ),
    why=(
        "Log-probs of two models that are shifted against each other are of different tokens: their difference is "
        "no log-ratio."
    ),
    example=EXAMPLE,
    instead="Slice both the same way: log-prob t of both is of the token at t.",
    references=("docs/audit.md",),
    find=_find,
)
