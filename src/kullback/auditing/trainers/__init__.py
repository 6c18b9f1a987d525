"""Known trainers: a folder each, with its names and the map of its terms to audits. No formula, none of their code."""

from __future__ import annotations

from kullback.auditing.trainers.areal import AREAL
from kullback.auditing.trainers.cleanrl import CLEANRL
from kullback.auditing.trainers.kl_rb import KL_RB
from kullback.auditing.trainers.liger import LIGER
from kullback.auditing.trainers.marin import MARIN
from kullback.auditing.trainers.miles import MILES
from kullback.auditing.trainers.names import Names, Option
from kullback.auditing.trainers.nemo_rl import NEMO_RL
from kullback.auditing.trainers.open_instruct import OPEN_INSTRUCT
from kullback.auditing.trainers.openrlhf import OPENRLHF
from kullback.auditing.trainers.prime_rl import PRIME_RL
from kullback.auditing.trainers.record import Member, Trainer
from kullback.auditing.trainers.rlhf_book import RLHF_BOOK
from kullback.auditing.trainers.roll import ROLL
from kullback.auditing.trainers.rpg import RPG
from kullback.auditing.trainers.skyrl import SKYRL
from kullback.auditing.trainers.slime import SLIME
from kullback.auditing.trainers.tinker import TINKER
from kullback.auditing.trainers.torchtune import TORCHTUNE
from kullback.auditing.trainers.trl import TRL
from kullback.auditing.trainers.trlx import TRLX
from kullback.auditing.trainers.unsloth import UNSLOTH
from kullback.auditing.trainers.verl import VERL
from kullback.families import Family

TRAINERS: Family[Trainer] = Family(
    (
        VERL,
        TRL,
        OPENRLHF,
        NEMO_RL,
        SLIME,
        MILES,
        SKYRL,
        UNSLOTH,
        PRIME_RL,
        TINKER,
        ROLL,
        AREAL,
        OPEN_INSTRUCT,
        LIGER,
        TORCHTUNE,
        TRLX,
        CLEANRL,
        MARIN,
        RLHF_BOOK,
        RPG,
        KL_RB,
    )
)

__all__ = ["TRAINERS", "Member", "Names", "Option", "Trainer"]
