"""TRL: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="TRL",
    columns={
        "per_token_logps": "logprobs",
        "ref_per_token_logps": "ref_logprobs",
        "old_per_token_logps": "behavior_logprobs",
        "sampling_per_token_logps": "behavior_logprobs",
        "completion_mask": "mask",
        "student_logits": "log_distributions",
        "teacher_logits": "ref_log_distributions",
    },
    options=(
        Option("GRPOConfig.beta", 0.0, "the KL's coefficient in the loss"),
        Option("GRPOConfig.use_bias_correction_kl", True, "k3 times the importance ratio; False before 1.16"),
        Option("GRPOConfig.loss_type", "dapo", "how tokens are put together"),
        Option("GRPOConfig.importance_sampling_level", "token", "of what that ratio is"),
        Option("RLOOConfig.beta", 0.05, "the KL's coefficient in the reward"),
        Option("KTOConfig.beta", 0.1, "scale of the log-ratios"),
        Option("GKDConfig.beta", 0.5, "0 forward, 1 reverse, between them Jensen-Shannon"),
    ),
)
