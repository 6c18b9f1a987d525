"""torchtune: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="torchtune",
    columns={
        "pi_logprobs": "logprobs",
        "pi_old_logprobs": "behavior_logprobs",
        "ref_logprobs": "ref_logprobs",
        "padding_masks": "mask",
    },
    options=(
        Option("kl_coeff", 0.1, "the KL's coefficient"),
        Option("epsilon", 0.1, "the policy loss's clip"),
    ),
)
