"""torchtune: the GRPO losses with advantages of 0, and PPO's penalty in the reward."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kullback.auditing.trainers.record import Member, Trainer, members

LOSSES = "torchtune/dev/grpo/loss.py"


def _loss(forward: Callable[..., Any]) -> Callable[..., Any]:
    module = SimpleNamespace(epsilon=0.2, kl_coeff=1.0)

    def loss(logprobs: Any, ref_logprobs: Any, mask: Any) -> Any:
        import torch

        zeros = torch.zeros(len(logprobs), dtype=logprobs.dtype)
        return forward(module, logprobs.detach(), logprobs, ref_logprobs, zeros, mask)[0]

    return loss


def _reward(get_rewards_ppo: Callable[..., Any]) -> Callable[..., Any]:
    def penalty(logprobs: Any, ref_logprobs: Any) -> Any:
        import torch

        return -get_rewards_ppo(torch.zeros(len(logprobs), dtype=logprobs.dtype), logprobs, ref_logprobs, 1.0)[2]

    return penalty


TORCHTUNE = Trainer(
    name="torchtune",
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
