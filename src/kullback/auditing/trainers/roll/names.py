"""ROLL: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="ROLL",
    columns={
        "log_probs": "logprobs",
        "log_probs_base": "ref_logprobs",
        "ref_log_probs": "ref_logprobs",
        "old_log_probs": "behavior_logprobs",
        "response_mask": "mask",
    },
    options=(
        Option("use_kl_loss", False, "k3 in the loss"),
        Option("kl_loss_coef", 0.0, "its coefficient"),
        Option("add_token_level_kl", False, "the KL in the reward"),
        Option("kl_penalty", "kl", "its estimator: kl, abs, mse or full"),
    ),
)
