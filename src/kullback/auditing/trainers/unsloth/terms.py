"""Unsloth: `grpo_compute_loss`, which stands in for TRL's, with advantages of 0 and a coefficient of 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.record import Join, Member, Trainer, members
from kullback.auditing.trainers.unsloth.names import NAMES

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

FILE = "unsloth_zoo/rl_replacements.py"
WIDTH = 8


def _driven(loss_type: str, corrected: bool) -> Join:
    def join(grpo_compute_loss: Function) -> Function:
        def loss(
            logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, behavior_logprobs: Tensor | None = None
        ) -> object:
            import torch

            counted = mask.to(logprobs.dtype)
            zeros = torch.zeros(len(logprobs), dtype=logprobs.dtype)
            return grpo_compute_loss(
                ref_logprobs,
                logprobs,
                behavior_logprobs,
                None,
                torch.zeros(logprobs.shape, dtype=torch.int64),
                counted,
                1.0,
                zeros,
                loss_type=loss_type,
                max_completion_length=WIDTH,
                num_items_in_batch=counted.sum(),
                use_bias_correction_kl=corrected,
            )[0]

        def on_policy(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            return loss(logprobs, ref_logprobs, mask)

        return loss if corrected else on_policy

    return join


UNSLOTH = Trainer(
    name="unsloth",
    names=NAMES,
    package="unsloth_zoo",
    install="pip install unsloth-zoo",
    members=members(
        *(
            Member(
                f"grpo-{kind}{'-corrected' if corrected else ''}",
                f"loss_type={kind}, use_bias_correction_kl={corrected}",
                "loss",
                (f"{FILE}:grpo_compute_loss",),
                join=_driven(kind, corrected),
                default=kind == "dapo" and not corrected,
            )
            for kind, corrected in (("dapo", False), ("dapo", True), ("dr_grpo", False), ("dr_grpo", True))
        ),
    ),
)
