"""verl: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="verl",
    columns={
        "logprob": "logprobs",
        "log_prob": "logprobs",
        "ref_logprob": "ref_logprobs",
        "ref_log_prob": "ref_logprobs",
        "old_log_prob": "behavior_logprobs",
        "rollout_log_probs": "behavior_logprobs",
        "response_mask": "mask",
    },
    options=(
        Option("actor.use_kl_loss", False, "the KL in the loss"),
        Option(
            "actor.kl_loss_type",
            "low_var_kl",
            "its estimator: k1, k2, k3 (low_var_kl), abs, with + a straight-through gradient",
        ),
        Option("actor.kl_loss_coef", 0.001, "its coefficient"),
        Option("algorithm.use_kl_in_reward", False, "the KL in the reward"),
        Option("algorithm.kl_penalty", "kl", "its estimator"),
    ),
)
