"""torchtune: the GRPO losses with advantages of 0, and PPO's penalty in the reward."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.torchtune.names import NAMES

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

LOSSES = "torchtune/dev/grpo/loss.py"


def _loss(forward: Function) -> Function:
    module = SimpleNamespace(epsilon=0.2, kl_coeff=1.0)

    def loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
        import torch

        zeros = torch.zeros(len(logprobs), dtype=logprobs.dtype)
        return forward(module, logprobs.detach(), logprobs, ref_logprobs, zeros, mask)[0]

    return loss


def _reward(get_rewards_ppo: Function) -> Function:
    def penalty(logprobs: Tensor, ref_logprobs: Tensor) -> object:
        import torch

        return -get_rewards_ppo(torch.zeros(len(logprobs), dtype=logprobs.dtype), logprobs, ref_logprobs, 1.0)[2]

    return penalty


TORCHTUNE = Trainer(
    name="torchtune",
    names=NAMES,
    package="torchtune",
    install="pip install torchtune",
    members=members(
        Member("grpo", "GRPOLoss, kl_coeff=1", "loss", (f"{LOSSES}:GRPOLoss.forward",), join=_loss),
        Member("grpo-simple", "GRPOSimpleLoss, kl_coeff=1", "loss", (f"{LOSSES}:GRPOSimpleLoss.forward",), join=_loss),
        Member(
            "ppo",
            "get_rewards_ppo, kl_coeff=1",
            "reward",
            ("torchtune/rlhf/rewards.py:get_rewards_ppo",),
            credit="reward_to_go",
            join=_reward,
        ),
    ),
)
