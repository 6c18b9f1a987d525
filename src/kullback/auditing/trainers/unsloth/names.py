"""Unsloth: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="Unsloth",
    columns={
        "new": "logprobs",
        "ref": "ref_logprobs",
        "old": "behavior_logprobs",
        "mask": "mask",
    },
    options=(
        Option("use_bias_correction_kl", False, "k3 times the importance ratio, which TRL has on"),
        Option("loss_type", "grpo", "how tokens are put together, where the trainer passes none"),
    ),
)
