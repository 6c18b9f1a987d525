"""The code of the RLHF book: `get_approx_kl` in the loss, and in the reward with a mean over tokens."""

from __future__ import annotations

from kullback.auditing.trainers.record import Member, Trainer, members
from kullback.auditing.trainers.rlhf_book.names import NAMES

FILE = "code/policy_gradients/loss.py"
COLUMNS = {"log_probs_ref": "ref_logprobs", "action_mask": "mask"}

RLHF_BOOK = Trainer(
    name="rlhf-book",
    names=NAMES,
    package="code",
    install="git clone https://github.com/natolambert/rlhf-book",
    checkout_only=True,
    members=members(
        *(
            Member(
                f"{kind}{'' if placement == 'loss' else '-reward'}",
                f"kl_estimator={kind} in the {placement}, tokens summed",
                placement,
                (f"{FILE}:approx_{kind}",),
                names=COLUMNS,
            )
            for placement in ("loss", "reward")
            for kind in ("kl1", "kl2", "kl3")
        ),
    ),
)
