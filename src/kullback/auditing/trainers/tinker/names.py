"""tinker-cookbook: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="tinker-cookbook",
    columns={
        "logprobs": "logprobs",
        "mask": "mask",
    },
    options=(
        Option("kl_penalty_coef", 0.0, "the KL's coefficient in advantages"),
        Option("kl_discount_factor", 0.0, "0 credits each token with its own penalty, 1 with what follows"),
    ),
)
