"""prime-rl: the trainer against the inference engine that drew the samples; here p is the engine."""

from __future__ import annotations

from kullback.auditing.trainers.prime_rl.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

FILE = "prime_rl/trainer/rl/loss.py"

PRIME_RL = Trainer(
    name="prime-rl",
    names=NAMES,
    package="prime_rl",
    install="git clone https://github.com/PrimeIntellect-ai/prime-rl",
    members=members(
        Member(
            "kl_loss",
            "default_loss_fn's kl_loss on the engine's samples, tokens summed",
            "loss",
            (f"{FILE}:default_loss_fn>kl_loss",),
            names={"log_importance_ratio": "log_ratio"},
            sampler="from_reference",
        ),
        Member(
            "ref_kl",
            "ref_kl_loss_fn's policy-gradient signal, by which on-policy distillation follows the reference",
            "bonus",
            (f"{FILE}:ref_kl_loss_fn>ref_kl",),
            names={"trainer_logprobs": "logprobs"},
            credit="own_token",
        ),
        Member(
            "mismatch_kl",
            "the logged mismatch_kl, on the engine's samples, tokens summed",
            "metric",
            (f"{FILE}:compute_importance_ratio_and_mismatch_kl",),
            names={"trainer_logprobs": "logprobs", "inference_logprobs": "ref_logprobs"},
            sampler="from_reference",
            output=2,
        ),
    ),
)
