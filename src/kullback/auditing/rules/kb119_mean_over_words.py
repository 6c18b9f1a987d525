"""KB119 mean-over-words: it is divided by the size of the vocabulary."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
loss = F.kl_div(ref_log_distributions, log_distributions, log_target=True)  # reduction="mean"
"""


def _find(report: Audited) -> str:
    by = {"words": "the size of the vocabulary", "cells": "the padded width times the size of the vocabulary"}
    judged = report.value if report.value.named is not None else report.gradient
    if judged.named is None or judged.per not in by:
        return ""
    return f"the result is divided by {by[judged.per]}: a mean over words, of which a KL is the sum"


RULE = Rule(
    code="KB119",
    slug="mean-over-words",
    group="biased-value",
    title="A mean over the words of the vocabulary",
    checks="Whether a result of whole distributions is a KL once it is multiplied by the size of the vocabulary.",
    why=(
        "F.kl_div with reduction='mean', its default, divides by every dimension: with 150,000 words the KL that is "
        "logged is 150,000 times too small, and a coefficient in the loss does nothing."
    ),
    example=EXAMPLE,
    instead="Sum over words, and over tokens: reduction='none', .sum(-1), and the mask.",
    references=("https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.kl_div.html",),
    find=_find,
)
