"""OpenRLHF: `compute_approx_kl`, in the reward by default, or in the loss."""

from __future__ import annotations

from kullback.auditing.trainers.openrlhf.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

FUNCTION = "openrlhf/models/utils.py:compute_approx_kl"
OFF = {"log_probs_old": None}
"""Without unbiased_gradient the log-probs of what drew the samples are not read."""

OPENRLHF = Trainer(
    name="openrlhf",
    names=NAMES,
    package="openrlhf",
    install="pip install openrlhf",
    members=members(
        *(
            Member(
                kind,
                f"kl_estimator={kind} in the reward",
                "reward",
                (FUNCTION,),
                settings={"kl_estimator": kind, **OFF},
                credit="reward_to_go",
                default=kind == "k1",
            )
            for kind in ("k1", "k2", "k3")
        ),
        *(
            Member(
                f"{kind}-loss",
                f"kl_estimator={kind} in the loss, tokens summed",
                "loss",
                (FUNCTION,),
                settings={"kl_estimator": kind, **OFF},
            )
            for kind in ("k1", "k2", "k3")
        ),
        *(
            Member(
                f"{kind}-unbiased",
                f"kl_estimator={kind} in the loss with unbiased_gradient, tokens summed",
                "loss",
                (FUNCTION,),
                settings={"kl_estimator": kind, "unbiased_gradient": True},
            )
            for kind in ("k1", "k2", "k3")
        ),
    ),
)
