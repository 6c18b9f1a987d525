"""RPG: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="RPG",
    columns={
        "logprob": "logprobs",
        "ref_logprob": "ref_logprobs",
        "old_log_prob": "behavior_logprobs",
        "response_mask": "mask",
    },
    options=(Option("kl_loss_type", "low_var_kl", "its estimator, rpg_fkl and rpg_rkl beside verl's"),),
)
