"""marin: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="marin",
    columns={
        "current_logprobs": "logprobs",
        "reference_logprobs": "ref_logprobs",
        "log_ratio": "log_ratio",
        "loss_masks": "mask",
    },
    options=(
        Option("KLConfig.mode", "none", "none, k1_loss, k2_loss or k3_loss"),
        Option("KLConfig.beta", 0.0, "the KL's coefficient"),
    ),
)
