"""slime: `compute_approx_kl` in the loss or the reward; `use_unbiased_kl` multiplies by the importance ratio."""

from __future__ import annotations

from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.slime.names import NAMES

KINDS = ("k1", "k2", "k3", "low_var_kl")


def approx_kl_members(function: str) -> tuple[Member, ...]:
    """The terms of `compute_approx_kl`, which stands in slime and in what was made from it."""
    return (
        *(
            Member(
                kind,
                f"kl_loss_type={kind} in the loss, tokens summed",
                "loss",
                (function,),
                settings={"kl_loss_type": kind},
            )
            for kind in KINDS
        ),
        *(
            Member(
                f"{kind}-unbiased",
                f"kl_loss_type={kind} with use_unbiased_kl, tokens summed",
                "loss",
                (function,),
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
                (function,),
                settings={"kl_loss_type": kind},
                credit="reward_to_go",
            )
            for kind in KINDS
        ),
    )


SLIME = Trainer(
    name="slime",
    names=NAMES,
    package="slime",
    install="git clone https://github.com/THUDM/slime",
    members=members(*approx_kl_members("slime/utils/ppo_utils.py:compute_approx_kl")),
)
