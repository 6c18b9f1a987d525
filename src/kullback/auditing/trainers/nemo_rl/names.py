"""NeMo-RL: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="NeMo-RL",
    columns={
        "logprobs": "logprobs",
        "logprobs_policy": "logprobs",
        "logprobs_reference": "ref_logprobs",
        "curr_logprobs": "logprobs",
        "reference_policy_logprobs": "ref_logprobs",
        "generation_logprobs": "behavior_logprobs",
        "importance_sampling_weights": "ratio",
    },
    options=(
        Option("reference_policy_kl_penalty", 0.01, "the KL's coefficient"),
        Option("reference_policy_kl_type", "k3", "k1, k2 or k3"),
        Option("kl_input_clamp_value", 20.0, "where log-ratios are clamped"),
        Option("kl_output_clamp_value", 10.0, "where the result is clamped"),
        Option("use_importance_sampling_correction", False, "weights of the engine's samples"),
        Option("use_kl_in_reward", False, "the KL in the reward"),
    ),
)
