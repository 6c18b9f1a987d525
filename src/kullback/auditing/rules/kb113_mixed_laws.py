"""KB113 mixed-laws: raw log-probs are compared with processed ones."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logits, ref_logits, tokens, mask):
    q = top_p(logits, 0.9).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    p = ref_logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return ((q - p) * mask).sum(-1)
"""


def _find(report: Audited) -> str:
    if report.words is not None and report.words.mixed:
        return (
            "of one and the same model it is not 0: one side leaves out rare words and is renormalised, as by top-p, "
            "top-k or min-p, and the other is not"
        )
    if report.effects.mixed:
        return (
            f"of one and the same model it is {report.effects.mixed:.3g} nats a sequence and not 0: the processed "
            "log-probs that it takes are after top-p 0.9, and the others are raw"
        )
    return ""


RULE = Rule(
    code="KB113",
    slug="mixed-laws",
    group="biased-value",
    title="Raw log-probs are compared with processed ones",
    checks=(
        "Whether one model on both sides gives 0 where two words have all the probability, and where there is a tail "
        "that top-p, top-k or min-p leave out; for parameters of processed log-probs the same with top-p 0.9."
    ),
    why=(
        "Processed log-probs are larger by −log of the probability that was kept. Their difference to raw ones is no "
        "log-ratio of two models: it grows with the entropy, and is above 0 where nothing was trained."
    ),
    example=EXAMPLE,
    instead="Compare raw with raw (of a server: ask for raw log-probs), or process both sides the same way.",
    references=("https://github.com/vllm-project/vllm (logprobs_mode)", "docs/audit.md"),
    find=_find,
)
