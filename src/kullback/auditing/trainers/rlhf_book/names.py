"""The code of the RLHF book: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="the RLHF Book's code",
    columns={
        "log_probs": "logprobs",
        "log_probs_ref": "ref_logprobs",
        "action_mask": "mask",
    },
    options=(
        Option("beta", 0.0, "the KL's coefficient"),
        Option("kl_estimator", "kl3", "kl1, kl2 or kl3"),
    ),
)
