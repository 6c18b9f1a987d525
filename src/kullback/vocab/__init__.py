"""Full-vocabulary KL, log-probs and entropy in torch, never holding tokens × vocabulary."""

from kullback.errors import MissingPackageError

try:
    import torch  # noqa: F401
except ImportError:
    raise MissingPackageError("torch", "torch") from None

from kullback.vocab.linear import linear_token_kl, linear_token_logprobs
from kullback.vocab.log_ratios import LogRatios, linear_log_ratio
from kullback.vocab.logits import token_kl, token_logprobs
from kullback.vocab.topk import TopKKL, renormalised_topk_kl, topk_kl
from kullback.vocab.weighted import linear_weighted_kl, linear_weighted_logprobs

__all__ = [
    "LogRatios",
    "TopKKL",
    "linear_log_ratio",
    "linear_token_kl",
    "linear_token_logprobs",
    "linear_weighted_kl",
    "linear_weighted_logprobs",
    "renormalised_topk_kl",
    "token_kl",
    "token_logprobs",
    "topk_kl",
]
