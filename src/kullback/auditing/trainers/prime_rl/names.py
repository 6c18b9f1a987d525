"""prime-rl: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="prime-rl",
    columns={
        "trainer_logprobs": "logprobs",
        "inference_logprobs": "behavior_logprobs",
        "ref_logprobs": "ref_logprobs",
        "log_importance_ratio": "log_ratio",
        "loss_mask": "mask",
    },
    options=(
        Option("kl_tau", 0.001, "the coefficient of the squared log-ratio to the engine"),
        Option("adv_tau", 1.0, "the coefficient of the policy gradient"),
    ),
)
