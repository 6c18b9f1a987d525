"""miles, which was made from slime: the same `compute_approx_kl`, at another place."""

from __future__ import annotations

from kullback.auditing.trainers.miles.names import NAMES
from kullback.auditing.trainers.record import Trainer, members
from kullback.auditing.trainers.slime.terms import approx_kl_members

MILES = Trainer(
    name="miles",
    names=NAMES,
    package="miles",
    install="git clone https://github.com/radixark/miles",
    members=members(*approx_kl_members("miles/backends/training_utils/loss_hub/math_utils.py:compute_approx_kl")),
)
