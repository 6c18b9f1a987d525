"""trlx: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="trlx",
    columns={
        "logprobs": "logprobs",
        "ref_logprobs": "ref_logprobs",
        "attention_mask": "mask",
    },
    options=(
        Option("init_kl_coef", 0.001, "the KL's coefficient at first"),
        Option("target", None, "what the controller aims at; None keeps the coefficient"),
        Option("horizon", 10000, "how slowly it moves"),
    ),
)
