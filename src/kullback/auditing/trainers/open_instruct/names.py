"""open-instruct: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="open-instruct",
    columns={
        "new_logprobs": "logprobs",
        "ref_logprobs": "ref_logprobs",
        "old_logprobs": "behavior_logprobs",
        "vllm_logprobs": "behavior_logprobs",
        "response_mask": "mask",
    },
    options=(
        Option("beta", 0.05, "the KL's coefficient in the loss"),
        Option("kl_estimator", 2, "0 k1, 1 k2, 2 k3, 3 the ratio times k1"),
        Option("load_ref_policy", True, "whether there is a reference"),
    ),
)
