"""miles: `compute_approx_kl` in the loss or the reward; `use_unbiased_kl` multiplies by the importance ratio."""

from __future__ import annotations

from kullback.auditing.trainers.miles.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

FUNCTION = "miles/backends/training_utils/loss_hub/math_utils.py:compute_approx_kl"
KINDS = ("k1", "k2", "k3", "low_var_kl")

MILES = Trainer(
    name="miles",
    names=NAMES,
    package="miles",
    install="git clone https://github.com/radixark/miles",
    members=members(
        *(
            Member(
                kind,
                f"kl_loss_type={kind} in the loss, tokens summed",
                "loss",
                (FUNCTION,),
                settings={"kl_loss_type": kind},
            )
            for kind in KINDS
        ),
        *(
            Member(
                f"{kind}-unbiased",
                f"kl_loss_type={kind} with use_unbiased_kl, tokens summed",
                "loss",
                (FUNCTION,),
                names={"importance_ratio": "ratio"},
                settings={"kl_loss_type": kind},
            )
            for kind in KINDS
        ),
        *(
            Member(
                f"{kind}-reward",
                f"kl_loss_type={kind} in the reward (kl_coef)",
                "reward",
                (FUNCTION,),
                settings={"kl_loss_type": kind},
                credit="reward_to_go",
            )
            for kind in KINDS
        ),
    ),
)
