"""verl: `kl_penalty` in the reward or the loss, the latter put together by `agg_loss`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.options import Placement
from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.record import Join, Member, Trainer, members
from kullback.auditing.trainers.verl.names import NAMES

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

CORE = "verl/trainer/ppo/core_algos.py"
COLUMNS = {"logprob": "logprobs", "ref_logprob": "ref_logprobs"}


def _penalty(kind: str, about: str, placement: Placement) -> Member:
    return Member(
        name=kind if placement == "loss" else f"{kind}-{placement}",
        about=f"kl_penalty={kind}{about}",
        placement=placement,
        functions=(f"{CORE}:kl_penalty",),
        names=COLUMNS,
        settings={"kl_penalty": kind},
    )


def _aggregated(kind: str, mode: str) -> Join:
    def join(kl_penalty: Function, agg_loss: Function) -> Function:
        def loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            return agg_loss(kl_penalty(logprobs, ref_logprobs, kind), mask.to(logprobs.dtype), mode)

        return loss

    return join


def _loss(kind: str, mode: str) -> Member:
    return Member(
        name=f"{kind}-{mode}",
        about=f"kl_loss_type={kind} with loss_agg_mode={mode}",
        placement="loss",
        functions=(f"{CORE}:kl_penalty", f"{CORE}:agg_loss"),
        join=_aggregated(kind, mode),
    )


VERL = Trainer(
    name="verl",
    names=NAMES,
    package="verl",
    install="pip install verl",
    members=members(
        *(_penalty(kind, " in the loss, tokens summed", "loss") for kind in ("k1", "k2", "k3", "abs", "k1+", "k3+")),
        *(_penalty(kind, " in the reward (use_kl_in_reward)", "reward") for kind in ("k1", "k2", "k3", "abs")),
        *(_loss("k3", mode) for mode in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")),
    ),
)
