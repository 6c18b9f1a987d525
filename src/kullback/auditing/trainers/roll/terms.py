"""ROLL: `compute_approx_kl`, k3 in the loss, the others in the reward."""

from __future__ import annotations

from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.roll.names import NAMES

FUNCTION = "roll/utils/functionals.py:compute_approx_kl"

ROLL = Trainer(
    name="roll",
    names=NAMES,
    package="roll",
    install="git clone https://github.com/alibaba/ROLL",
    members=members(
        Member(
            "k3",
            "kl_penalty=k3 in the loss (use_kl_loss), tokens summed",
            "loss",
            (FUNCTION,),
            settings={"kl_penalty": "k3"},
        ),
        *(
            Member(
                kind,
                f"kl_penalty={kind} in the reward (add_token_level_kl)",
                "reward",
                (FUNCTION,),
                settings={"kl_penalty": kind},
                credit="reward_to_go",
            )
            for kind in ("kl", "abs", "mse")
        ),
        Member(
            "full",
            "kl_penalty=full of whole distributions, in the reward",
            "reward",
            (FUNCTION,),
            names={"log_probs": "log_distributions", "log_probs_base": "ref_log_distributions"},
            settings={"kl_penalty": "full"},
            credit="reward_to_go",
        ),
    ),
)
