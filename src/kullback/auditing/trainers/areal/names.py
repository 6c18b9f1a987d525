"""AReaL: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="AReaL",
    columns={
        "log_probs": "logprobs",
        "log_probs_base": "ref_logprobs",
        "old_logp": "behavior_logprobs",
        "loss_mask": "mask",
    },
    options=(
        Option("kl_ctl", 0.1, "the KL's coefficient in the reward"),
        Option("kl_estimator", "k1", "k1, k2 or k3"),
    ),
)
