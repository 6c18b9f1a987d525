"""CleanRL: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names, Option

NAMES = Names(
    title="CleanRL",
    columns={"newlogprob": "logprobs", "b_logprobs": "behavior_logprobs"},
    options=(Option("target_kl", None, "the approx_kl at which an update's epochs stop"),),
)
