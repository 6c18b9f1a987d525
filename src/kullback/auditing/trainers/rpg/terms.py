"""RPG: `kl_penalty` of its fork of verl, with the paper's surrogates, in the loss."""

from __future__ import annotations

from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.rpg.names import NAMES

CORE = "verl/trainer/ppo/core_algos.py"
COLUMNS = {"logprob": "logprobs", "ref_logprob": "ref_logprobs"}

RPG = Trainer(
    name="rpg",
    names=NAMES,
    package="verl",
    install="git clone https://github.com/complex-reasoning/RPG",
    checkout_only=True,
    members=members(
        *(
            Member(
                kind,
                f"kl_penalty={kind} in the loss, tokens summed, on the reference's samples",
                "loss",
                (f"{CORE}:kl_penalty",),
                names=COLUMNS,
                settings={"kl_penalty": kind},
                sampler="from_reference",
            )
            for kind in ("rpg_fkl", "rpg_rkl")
        ),
        *(
            Member(
                kind,
                f"kl_penalty={kind} in the loss, tokens summed",
                "loss",
                (f"{CORE}:kl_penalty",),
                names=COLUMNS,
                settings={"kl_penalty": kind},
            )
            for kind in ("kl", "abs", "mse")
        ),
    ),
)
