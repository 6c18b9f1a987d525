"""slime: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="slime",
    columns={
        "log_probs": "logprobs",
        "log_probs_base": "ref_logprobs",
        "ref_log_probs": "ref_logprobs",
        "rollout_log_probs": "behavior_logprobs",
        "importance_ratio": "ratio",
        "loss_masks": "mask",
    },
    options=(
        Option("--use-kl-loss", False, "the KL in the loss"),
        Option("--kl-loss-type", "k1", "k1, k2, k3 or low_var_kl"),
        Option("--kl-loss-coef", 0.0, "its coefficient"),
        Option("--kl-coef", 0.0, "the coefficient of the KL in the reward"),
        Option("--use-unbiased-kl", False, "times the importance ratio"),
    ),
)
