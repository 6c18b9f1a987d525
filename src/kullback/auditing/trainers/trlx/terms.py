"""trlx: PPO's penalty and the logged KL, a few statements of its trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.trlx.names import NAMES

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

METHOD = "trlx/trainer/accelerate_ppo_trainer.py:AcceleratePPOTrainer.make_experience"


def _logged(mean_kl: Function) -> Function:
    """Its mask has one place more than its log-probs."""

    def metric(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
        import torch

        return mean_kl(logprobs, ref_logprobs, torch.cat([mask, mask[:, -1:]], -1).to(logprobs.dtype))

    return metric


TRLX = Trainer(
    name="trlx",
    names=NAMES,
    package="trlx",
    install="git clone https://github.com/CarperAI/trlx",
    members=members(
        Member(
            "penalty",
            "the log-ratio that kl_penalty subtracts, credited with its reward-to-go",
            "reward",
            (f"{METHOD}>log_ratio",),
            credit="reward_to_go",
            join=_logged,
            default=True,
        ),
        Member(
            "metric",
            "the logged mean_kl: the statements that assign it",
            "metric",
            (f"{METHOD}>log_ratio>kl>mean_kl",),
            join=_logged,
        ),
    ),
)
