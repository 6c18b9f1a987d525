"""Liger-Kernel: the GRPO loss behind its fused kernel, with advantages of 0, and its k3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.liger.names import NAMES
from kullback.auditing.trainers.record import Join, Member, Trainer, members

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

FILE = "liger_kernel/chunked_loss/grpo_loss.py"
WIDTH = 8


def _driven(loss_type: str, corrected: bool) -> Join:
    def join(ppo_loss_fn: Function) -> Function:
        def loss(
            logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, behavior_logprobs: Tensor | None = None
        ) -> object:
            import torch

            counted = mask.to(logprobs.dtype)
            return ppo_loss_fn(
                logprobs,
                counted,
                torch.zeros(len(logprobs), dtype=logprobs.dtype),
                counted,
                ref_per_token_logps=ref_logprobs,
                old_per_token_logps=behavior_logprobs,
                beta=1.0,
                loss_type=loss_type,
                max_completion_length=WIDTH,
                use_bias_correction_kl=corrected,
            )[0]

        def on_policy(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            return loss(logprobs, ref_logprobs, mask)

        return loss if corrected else on_policy

    return join


LIGER = Trainer(
    name="liger",
    names=NAMES,
    package="liger_kernel",
    install="pip install liger-kernel",
    members=members(
        Member(
            "k3",
            "k3_loss_fn as its loss calls it, tokens summed",
            "loss",
            (f"{FILE}:k3_loss_fn",),
            names={"log_p": "ref_logprobs", "log_q": "logprobs"},
        ),
        *(
            Member(
                f"grpo-{kind}{'-corrected' if corrected else ''}",
                f"loss_type={kind}, use_bias_correction_kl={corrected}",
                "loss",
                (f"{FILE}:LigerFusedLinearGRPOFunction.ppo_loss_fn",),
                join=_driven(kind, corrected),
            )
            for kind, corrected in (("dapo", False), ("dr_grpo", False), ("dr_grpo", True))
        ),
    ),
)
