"""CleanRL: the two KLs between old and new policy that PPO logs, and by which it stops early.

They are statements of the script itself. The old policy drew the samples: it is q here, and the new one p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.cleanrl.names import NAMES
from kullback.auditing.trainers.record import Member, Trainer, members

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

SCRIPT = "cleanrl/ppo.py:__main__"


def _steps(kl: Function) -> Function:
    """Its batch is one array of steps, without padding; all of it is one minibatch."""

    def metric(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
        return kl(newlogprob=ref_logprobs[mask], b_logprobs=logprobs[mask], mb_inds=slice(None))

    return metric


CLEANRL = Trainer(
    name="cleanrl",
    names=NAMES,
    package="cleanrl",
    install="git clone https://github.com/vwxyzjn/cleanrl",
    checkout_only=True,
    members=members(
        Member(
            "approx-kl",
            "PPO's approx_kl, k3 of old and new policy, a mean over steps",
            "metric",
            (f"{SCRIPT}>logratio>ratio>approx_kl",),
            join=_steps,
            default=True,
        ),
        Member(
            "old-approx-kl",
            "PPO's old_approx_kl, k1 of old and new policy, a mean over steps",
            "metric",
            (f"{SCRIPT}>logratio>old_approx_kl",),
            join=_steps,
        ),
    ),
)
