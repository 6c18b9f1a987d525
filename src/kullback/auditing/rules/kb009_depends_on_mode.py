"""KB009 depends-on-mode: the same input gives another result in training than in evaluation."""

from __future__ import annotations

from kullback.auditing.report import Audited
from kullback.auditing.rules.record import Rule

EXAMPLE = """\
def forward(self, logprobs, ref_logprobs, mask):
    x = F.dropout(logprobs, 0.1, training=self.training)
    return ((x - ref_logprobs) * mask).sum(-1)
"""

SAID = {
    "training mode": "in training mode the same input gives another result than in evaluation mode, or two results",
    "no gradients": "under torch.no_grad the same input gives another result",
}


def _find(report: Audited) -> str:
    return " and ".join(SAID[mode] for mode in report.constancy.modes)


RULE = Rule(
    code="KB009",
    slug="depends-on-mode",
    group="call",
    title="The same input gives another result in training than in evaluation",
    checks="The same call with `training` switched on and off where the function reaches an object that has it, and "
    "without gradients.",
    why=(
        "Dropout behind a training flag makes KL(q‖q) larger than 0 at the first step, and what is logged in "
        "evaluation is not what is optimised."
    ),
    example=EXAMPLE,
    instead="Score both models in evaluation mode; leave dropout out of log-probs.",
    references=("https://github.com/unslothai/unsloth-zoo/pull/830",),
    find=_find,
    severity="warn",
)
