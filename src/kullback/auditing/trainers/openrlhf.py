"""OpenRLHF: `compute_approx_kl`, in the reward by default, or in the loss."""

from __future__ import annotations

from kullback.auditing.trainers.record import Member, Trainer, members

FUNCTION = "openrlhf/models/utils.py:compute_approx_kl"

OPENRLHF = Trainer(
    name="openrlhf",
    package="openrlhf",
    install="pip install openrlhf",
    members=members(
        *(
            Member(
                kind,
                f"kl_estimator={kind} in the reward",
                "reward",
                (FUNCTION,),
                settings={"kl_estimator": kind},
                credit="reward_to_go",
            )
            for kind in ("k1", "k2", "k3")
        ),
        *(
            Member(
                f"{kind}-loss",
                f"kl_estimator={kind} in the loss, tokens summed",
                "loss",
                (FUNCTION,),
                settings={"kl_estimator": kind},
            )
            for kind in ("k1", "k2", "k3")
        ),
    ),
)
