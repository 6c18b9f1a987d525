"""kl-rb: the Rao-Blackwellised KL of its fork of TRL, beside the plain one, as the metric and in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.kl_rb.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

FUNCTION = "trl/trainer/utils.py:compute_kl"


def _exact(compute_kl: Function) -> Function:
    def kl(log_distributions: Tensor, ref_log_distributions: Tensor) -> object:
        return compute_kl(None, None, log_distributions, ref_log_distributions)

    return kl


def _sampled(compute_kl: Function) -> Function:
    def kl(logprobs: Tensor, ref_logprobs: Tensor) -> object:
        return compute_kl(logprobs, ref_logprobs)

    return kl


KL_RB = Trainer(
    name="kl-rb",
    names=NAMES,
    package="trl",
    install="git clone https://github.com/rycolab/kl-rb",
    checkout_only=True,
    members=members(
        Member("exact", "compute_kl of both models' logits, in the reward", "reward", (FUNCTION,), join=_exact),
        Member("exact-loss", "compute_kl of both models' logits, in the loss", "loss", (FUNCTION,), join=_exact),
        Member("sampled", "compute_kl of log-probs, in the reward", "reward", (FUNCTION,), join=_sampled),
    ),
)
