"""NeMo-RL: `calculate_kl`, with its clamps, in the loss or the reward; with importance weights where it uses them."""

from __future__ import annotations

from kullback.auditing.trainers.nemo_rl.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

FUNCTION = "nemo_rl/algorithms/utils.py:calculate_kl"

NEMO_RL = Trainer(
    name="nemo-rl",
    names=NAMES,
    package="nemo_rl",
    install="git clone https://github.com/NVIDIA-NeMo/RL",
    members=members(
        *(
            Member(kind, f"kl_type={kind} in the loss, tokens summed", "loss", (FUNCTION,), settings={"kl_type": kind})
            for kind in ("k1", "k2", "k3")
        ),
        *(
            Member(
                f"{kind}-weighted",
                f"kl_type={kind} in the loss with importance_sampling_weights, tokens summed",
                "loss",
                (FUNCTION,),
                names={"importance_sampling_weights": "ratio"},
                settings={"kl_type": kind},
            )
            for kind in ("k1", "k2", "k3")
        ),
        Member(
            "k3-unclamped",
            "kl_type=k3 in the loss, both clamps None",
            "loss",
            (FUNCTION,),
            settings={"kl_type": "k3", "input_clamp_value": None, "output_clamp_value": None},
        ),
        *(
            Member(
                f"{kind}-reward",
                f"kl_type={kind} in the reward (use_kl_in_reward)",
                "reward",
                (FUNCTION,),
                settings={"kl_type": kind},
                credit="reward_to_go",
            )
            for kind in ("k1", "k2", "k3")
        ),
    ),
)
