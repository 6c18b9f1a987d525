"""marin: the KL penalties of its JAX losses, and the mean that it logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.marin.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

if TYPE_CHECKING:
    from kullback.arrays import Array

FILE = "marin/rl/kl_regularization.py"


def _logged(k3_from_log_ratio: Function, masked_response_mean: Function) -> Function:
    def metric(log_ratio: Array, mask: Array) -> object:
        return masked_response_mean(k3_from_log_ratio(log_ratio), mask)

    return metric


MARIN = Trainer(
    name="marin",
    names=NAMES,
    package="marin",
    install="git clone https://github.com/marin-community/marin",
    within="lib/marin/src",
    members=members(
        *(
            Member(
                f"{kind}-loss",
                f"KLConfig(mode={kind}_loss), tokens summed",
                "loss",
                (f"{FILE}:{kind}_from_log_ratio",),
                arrays="jax",
            )
            for kind in ("k1", "k2", "k3")
        ),
        Member(
            "k3-metric",
            "the logged k3_mean",
            "metric",
            (f"{FILE}:k3_from_log_ratio", f"{FILE}:masked_response_mean"),
            arrays="jax",
            join=_logged,
        ),
    ),
)
