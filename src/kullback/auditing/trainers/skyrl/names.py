"""SkyRL: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="SkyRL",
    columns={
        "log_probs": "logprobs",
        "log_probs_base": "ref_logprobs",
        "action_log_probs": "logprobs",
        "base_action_log_probs": "ref_logprobs",
        "rollout_logprobs": "behavior_logprobs",
        "loss_mask": "mask",
    },
    options=(
        Option("use_kl_loss", True, "the KL in the loss"),
        Option("kl_loss_coef", 0.001, "its coefficient"),
        Option("kl_estimator_type", "k3", "k1, abs, k2 or k3"),
        Option("use_kl_in_reward", False, "the KL in the reward"),
    ),
)
