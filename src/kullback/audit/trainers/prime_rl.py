"""prime-rl: the trainer against the inference engine that drew the samples; here p is the engine."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kullback.audit.trainers.record import Member, Trainer, members

FILE = "prime_rl/trainer/rl/loss.py"


def _default(default_loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The default loss without advantages, a sequence at a time as the trainer calls it, with kl_tau = 1."""

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any) -> Any:
        import torch

        config = SimpleNamespace(dppo_mask_high=1e9, dppo_mask_low=1e9, adv_tau=1.0, kl_tau=1.0)
        rows = [
            default_loss_fn(
                SimpleNamespace(
                    trainer_logprobs=q,
                    inference_logprobs=p,
                    advantages=torch.zeros_like(q),
                    loss_mask=m,
                    loss_weights=None,
                ),
                config,
            ).loss
            for q, p, m in zip(logprobs, ref_logprobs, mask, strict=True)
        ]
        return torch.stack(rows)

    return loss


PRIME_RL = Trainer(
    name="prime-rl",
    package="prime_rl",
    install="git clone https://github.com/PrimeIntellect-ai/prime-rl",
    members=members(
        Member(
            "kl_loss",
            "default_loss_fn's squared log-ratio to the inference engine, kl_tau=1",
            "loss",
            (f"{FILE}:default_loss_fn",),
            sampler="from_reference",
            join=_default,
        ),
        Member(
            "mismatch_kl",
            "the logged mismatch_kl to the inference engine, tokens summed",
            "metric",
            (f"{FILE}:compute_importance_ratio_and_mismatch_kl",),
            names={"trainer_logprobs": "logprobs", "inference_logprobs": "ref_logprobs"},
            sampler="from_reference",
            output=2,
        ),
    ),
)
