"""open-instruct: `estimate_kl`, of whose four results `kl_estimator` chooses one for the loss (2 by default).

The trainer clamps the log-ratio to ±40 before the call; so does the stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kullback.auditing.trainers.record import Join, Member, Trainer, members

LIMIT = 40.0


def _chosen(number: int) -> Join:
    def join(estimate_kl: Callable[..., Any]) -> Callable[..., Any]:
        def plain(log_ratio: Any) -> Any:
            import torch

            return estimate_kl(log_ratio.clamp(-LIMIT, LIMIT), torch.ones_like(log_ratio))[number]

        def weighted(log_ratio: Any, ratio: Any) -> Any:
            return estimate_kl(log_ratio.clamp(-LIMIT, LIMIT), ratio)[number]

        return weighted if number == 3 else plain

    return join


OPEN_INSTRUCT = Trainer(
    name="open-instruct",
    package="open_instruct",
    install="git clone https://github.com/allenai/open-instruct",
    members=members(
        *(
            Member(
                f"kl{number}",
                f"kl_estimator={number} in the loss, tokens summed",
                "loss",
                ("open_instruct/model_utils.py:estimate_kl",),
                join=_chosen(number),
            )
            for number in range(4)
        ),
    ),
)
