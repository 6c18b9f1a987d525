"""tinker-cookbook: the penalty that is added to advantages, and the logged sampler–trainer KL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.record import Join, Member, Trainer, members
from kullback.auditing.trainers.tinker.names import NAMES

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

METRICS = "tinker_cookbook/rl/metrics.py"


class _Data:
    """A stand-in for tinker's TensorData."""

    def __init__(self, tensor: Tensor | list[int]) -> None:
        self.data = self.tensor = tensor

    def to_torch(self) -> Tensor | list[int]:
        return self.tensor

    @classmethod
    def from_torch(cls, tensor: Tensor) -> _Data:
        return cls(tensor)


def _penalty(discount: float) -> Join:
    def join(incorporate: Function) -> Function:
        stack = incorporate.__globals__
        stack["tinker"] = SimpleNamespace(TensorData=_Data)

        async def score_sequences(client: SimpleNamespace, inputs: Iterable[object]) -> tuple[list[list[float]], None]:
            return [await client.compute_logprobs_async(one) for one in inputs], None

        if "score_sequences" in stack:  # newer versions score through this helper, which asks the remote service
            stack["score_sequences"] = score_sequences

        def penalty(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            import torch

            base = iter(ref_logprobs.detach())

            async def scored(_: object) -> list[float]:
                return [0.0, *next(base).tolist()]

            data = [
                SimpleNamespace(
                    model_input=SimpleNamespace(append_int=lambda token: token),
                    loss_fn_inputs={
                        "target_tokens": _Data([0]),
                        "logprobs": _Data(q),
                        "mask": _Data(m),
                        "advantages": _Data(torch.zeros_like(q)),
                    },
                )
                for q, m in zip(logprobs.detach(), mask, strict=True)
            ]
            asyncio.run(incorporate(data, SimpleNamespace(compute_logprobs_async=scored), 1.0, discount))
            return -torch.stack([datum.loss_fn_inputs["advantages"].to_torch() for datum in data])

        return penalty

    return join


def _sampler_trainer(key: str) -> Join:
    def join(compute: Function) -> Function:
        def metric(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            data = [
                SimpleNamespace(loss_fn_inputs={"logprobs": _Data(q), "mask": _Data(m)})
                for q, m in zip(logprobs.detach(), mask, strict=True)
            ]
            return compute(data, list(ref_logprobs.detach()))[key]

        return metric

    return join


TINKER = Trainer(
    name="tinker",
    names=NAMES,
    package="tinker_cookbook",
    install="pip install tinker-cookbook",
    members=members(
        Member(
            "penalty",
            "incorporate_kl_penalty with kl_discount_factor=0",
            "reward",
            (f"{METRICS}:incorporate_kl_penalty",),
            credit="own_token",
            join=_penalty(0.0),
        ),
        Member(
            "penalty-to-go",
            "incorporate_kl_penalty with kl_discount_factor=1",
            "reward",
            (f"{METRICS}:incorporate_kl_penalty",),
            credit="own_token",
            join=_penalty(1.0),
        ),
        *(
            Member(
                version,
                f"the logged kl_sample_train_{version}, q the sampler and p the trainer",
                "metric",
                (f"{METRICS}:compute_kl_sample_train",),
                join=_sampler_trainer(f"optim/kl_sample_train_{version}"),
            )
            for version in ("v1", "v2")
        ),
    ),
)
