"""open-instruct: `estimate_kl`, of whose four results `kl_estimator` chooses one for the loss (2 by default).

The trainer clamps the log-ratio to ±40 before the call; so does the stand-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.open_instruct.names import NAMES
from kullback.auditing.trainers.record import Join, Member, Trainer, members

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

LIMIT = 40.0


def _chosen(number: int) -> Join:
    def join(estimate_kl: Function) -> Function:
        def plain(log_ratio: Tensor) -> object:
            import torch

            return estimate_kl(log_ratio.clamp(-LIMIT, LIMIT), torch.ones_like(log_ratio))[number]

        def weighted(log_ratio: Tensor, ratio: Tensor) -> object:
            return estimate_kl(log_ratio.clamp(-LIMIT, LIMIT), ratio)[number]

        return weighted if number == 3 else plain

    return join


OPEN_INSTRUCT = Trainer(
    name="open-instruct",
    names=NAMES,
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
