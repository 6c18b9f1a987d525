"""Known trainers: a mapping file each, from their functions and options to audits. No formula, none of their code."""

from __future__ import annotations

from kullback.audit.trainers.areal import AREAL
from kullback.audit.trainers.liger import LIGER
from kullback.audit.trainers.nemo_rl import NEMO_RL
from kullback.audit.trainers.open_instruct import OPEN_INSTRUCT
from kullback.audit.trainers.openrlhf import OPENRLHF
from kullback.audit.trainers.prime_rl import PRIME_RL
from kullback.audit.trainers.record import Member, Trainer
from kullback.audit.trainers.roll import ROLL
from kullback.audit.trainers.slime import SLIME
from kullback.audit.trainers.tinker import TINKER
from kullback.audit.trainers.torchtune import TORCHTUNE
from kullback.audit.trainers.trl import TRL
from kullback.audit.trainers.verl import VERL
from kullback.families import Family

TRAINERS: Family[Trainer] = Family(
    (VERL, TRL, OPENRLHF, NEMO_RL, SLIME, PRIME_RL, TINKER, ROLL, AREAL, OPEN_INSTRUCT, LIGER, TORCHTUNE)
)

__all__ = ["TRAINERS", "Member", "Trainer"]
