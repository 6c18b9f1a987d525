"""Liger-Kernel: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="Liger-Kernel",
    columns={
        "per_token_logps": "logprobs",
        "ref_per_token_logps": "ref_logprobs",
        "old_per_token_logps": "behavior_logprobs",
        "completion_mask": "mask",
    },
    options=(
        Option("beta", 0.04, "the KL's coefficient"),
        Option("loss_type", "dapo", "how tokens are put together"),
        Option("use_bias_correction_kl", False, "k3 times the importance ratio"),
    ),
)
