"""kl-rb: its names of columns and of options."""

from __future__ import annotations

from kullback.auditing.trainers.names import Names

NAMES = Names(
    title="kl-rb",
    columns={
        "logprobs": "logprobs",
        "ref_logprobs": "ref_logprobs",
        "logits": "log_distributions",
        "ref_logits": "ref_log_distributions",
    },
)
