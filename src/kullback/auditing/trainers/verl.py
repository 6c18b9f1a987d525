"""verl: `kl_penalty` in the reward or the loss, the latter put together by `agg_loss`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kullback.auditing.trainers.record import Join, Member, Trainer, members

CORE = "verl/trainer/ppo/core_algos.py"
NAMES = {"logprob": "logprobs", "ref_logprob": "ref_logprobs"}


def _penalty(kind: str, about: str, **more: Any) -> Member:
    given: dict[str, Any] = {"placement": "loss", "name": kind, **more}
    return Member(
        about=f"kl_penalty={kind}{about}",
        functions=(f"{CORE}:kl_penalty",),
        names=NAMES,
        settings={"kl_penalty": kind},
        **given,
    )


def _aggregated(kind: str, mode: str) -> Join:
    def join(kl_penalty: Callable[..., Any], agg_loss: Callable[..., Any]) -> Callable[..., Any]:
        def loss(logprobs: Any, ref_logprobs: Any, mask: Any) -> Any:
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
    package="verl",
    install="pip install verl",
    members=members(
        *(_penalty(kind, " in the loss, tokens summed") for kind in ("k1", "k2", "k3", "abs", "k1+", "k3+")),
        *(
            _penalty(kind, " in the reward (use_kl_in_reward)", name=f"{kind}-reward", placement="reward")
            for kind in ("k1", "k2", "k3", "abs")
        ),
        *(_loss("k3", mode) for mode in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")),
    ),
)
