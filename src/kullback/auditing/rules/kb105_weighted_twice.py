"""KB105 weighted-twice: sampled tokens are weighted by their probability again."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def kl(logprobs, ref_logprobs, mask):
    return torch.nn.functional.kl_div(ref_logprobs, logprobs, log_target=True, reduction="none")
"""


def _find(report: Audited) -> str:
    form = report.form
    if form is None or report.value.target is not None:
        return ""
    if form.weighted_by:
        what = f" of {form.formula.name}" if form.formula else ""
        return (
            f"every token's term{what} is multiplied by the {form.weighted_by}'s probability of the token, "
            "though sampling has already weighted it"
        )
    if form.formula is not None and form.formula.name == "weighted_k1" and report.sampler == "on_policy":
        return "every token's ℓ is multiplied by q/p, a weight for samples of the reference, on samples of the policy"
    return ""


RULE = Rule(
    code="KB105",
    slug="weighted-twice",
    group="biased-value",
    title="Sampled tokens are weighted by their probability again",
    checks=(
        "Whether one token's term is multiplied by its own probability, or by q/p, although the samples "
        "already come from the policy."
    ),
    why=(
        "Sampling already weights every token by its probability. A sum over samples of q·log(q/p) estimates "
        "Σ q² log(q/p), far below the KL."
    ),
    example=EXAMPLE,
    instead="On sampled tokens use logprobs − ref_logprobs; the weights belong to sums over the whole vocabulary.",
    references=("Schulman 2020, “Approximating KL Divergence”",),
    find=_find,
    covered_by=("KB410",),
)
