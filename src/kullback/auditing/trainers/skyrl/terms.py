"""SkyRL: `compute_approx_kl`, k3 by default, in the loss or the reward."""

from __future__ import annotations

from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.skyrl.names import NAMES

FUNCTION = "skyrl/backends/skyrl_train/utils/ppo_utils.py:compute_approx_kl"
KINDS = ("k1", "abs", "k2", "k3")

SKYRL = Trainer(
    name="skyrl",
    names=NAMES,
    package="skyrl",
    install="pip install skyrl",
    members=members(
        *(
            Member(
                kind,
                f"kl_estimator_type={kind} in the loss (use_kl_loss), tokens summed",
                "loss",
                (FUNCTION,),
                settings={"kl_estimator_type": kind},
                default=kind == "k3",
            )
            for kind in KINDS
        ),
        *(
            Member(
                f"{kind}-reward",
                f"kl_estimator_type={kind} in the reward (use_kl_in_reward)",
                "reward",
                (FUNCTION,),
                settings={"kl_estimator_type": kind},
                credit="reward_to_go",
            )
            for kind in KINDS
        ),
    ),
)
