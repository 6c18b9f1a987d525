"""OpenRLHF: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="OpenRLHF",
    columns={
        "log_probs": "logprobs",
        "log_probs_base": "ref_logprobs",
        "log_probs_old": "behavior_logprobs",
        "action_log_probs": "logprobs",
        "base_action_log_probs": "ref_logprobs",
        "action_mask": "mask",
    },
    options=(
        Option("--algo.kl.estimator", "k1", "k1, k2 or k3"),
        Option("--algo.kl.init_coef", 0.01, "the KL's coefficient"),
        Option("--algo.kl.use_loss", False, "the KL in the loss and not in the reward"),
        Option("--algo.kl.unbiased_gradient", False, "a detached weight and a straight-through gradient"),
    ),
)
