"""What a function can be handed: the columns of a batch, and what each of them is."""

from __future__ import annotations

COLUMNS = {
    "logprobs": "log q of the sampled tokens",
    "ref_logprobs": "log p of the same tokens",
    "mask": "True where a token counts",
    "behavior_logprobs": "log μ of the same tokens, μ what drew them",
    "log_ratio": "log q − log p",
    "ratio": "q/μ of every token, differentiable",
    "tokens": "the sampled tokens",
    "token_kl": "exact KL(q_t‖p_t) at every prefix",
    "reverse_token_kl": "exact KL(p_t‖q_t) at every prefix",
    "log_distributions": "log q over the vocabulary, (batch, time, vocab); serves as logits",
    "ref_log_distributions": "log p over the vocabulary",
    "behavior_log_distributions": "log μ over the vocabulary",
    "distributions": "q over the vocabulary",
    "ref_distributions": "p over the vocabulary",
    "processed_logprobs": "log q of the same tokens after top-p 0.9, renormalised",
    "processed_ref_logprobs": "log p of the same tokens after top-p 0.9, renormalised",
    "advantages": "0 for every row, so that what is left is the KL",
    "rewards": "0 for every row, so that what is left is the KL",
    "groups": "the prompt of each row: all rows have one",
}
"""What a function can be handed."""

BEHAVIOR = frozenset({"behavior_logprobs", "ratio", "behavior_log_distributions"})
"""Columns of what drew the samples."""

REFERENCE = frozenset(
    {
        "ref_logprobs",
        "log_ratio",
        "token_kl",
        "reverse_token_kl",
        "ref_log_distributions",
        "ref_distributions",
        "processed_ref_logprobs",
    }
)
"""Columns that say something of the reference."""

POLICY = frozenset(
    {
        "logprobs",
        "log_ratio",
        "ratio",
        "token_kl",
        "reverse_token_kl",
        "log_distributions",
        "distributions",
        "processed_logprobs",
    }
)
"""Columns that say something of the policy."""

PROCESSED = frozenset({"processed_logprobs", "processed_ref_logprobs"})
"""Columns of what a sampler makes of a distribution before it draws."""

FULL = frozenset(
    {
        "processed_logprobs",
        "processed_ref_logprobs",
        "token_kl",
        "reverse_token_kl",
        "log_distributions",
        "ref_log_distributions",
        "behavior_log_distributions",
        "distributions",
        "ref_distributions",
    }
)
"""Columns that a hand-set log-prob of one token does not determine."""

DISTRIBUTIONS = ("log_distributions", "ref_log_distributions", "behavior_log_distributions")
"""Columns of a number a word, logarithms."""

BESIDE = ("advantages", "rewards")
"""What is beside the KL in a whole loss, and is switched off."""
