"""AReaL: `KLEstimator`, in the reward."""

from __future__ import annotations

from kullback.auditing.trainers.areal.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

AREAL = Trainer(
    name="areal",
    names=NAMES,
    package="areal",
    install="git clone https://github.com/inclusionAI/AReaL",
    members=members(
        *(
            Member(
                kind,
                f"KLEstimator({kind!r}) in the reward",
                "reward",
                ("areal/utils/data.py:KLEstimator._compute_approx_kl",),
                settings={"kl_estimator": kind},
                credit="reward_to_go",
            )
            for kind in ("k1", "k2", "k3")
        ),
    ),
)
