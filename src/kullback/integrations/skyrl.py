"""SkyRL: the KL of its loss with the gradient of a named objective, by a registered policy loss.

SkyRL's registry of policy losses is shown what drew the tokens and not the reference's log-probs; `compute_approx_kl`,
which is, has no registry and is not shown the former. So the registered loss leaves π_old with the log-probs that it
was called with, and stands a `compute_approx_kl` in the place of SkyRL's that finds it there.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.replacing import refuse_unknown, replace
from kullback.integrations.terms import nats, over_rows
from kullback.targets import Target
from kullback.weights import Truncation

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = {"b42c233b92ac7a4b": "SkyRL 0.3.0", "28657e52d5a51d4e": "SkyRL of 21 August 2026"}
"""Fingerprint of `compute_approx_kl` → the release that has it."""

LEFT = "_kullback_drew"
"""Attribute of a tensor of log-probs: whose gradient is wanted, and what drew the tokens."""


class PolicyLoss:
    """A policy loss of SkyRL's, and the KL beside it; it goes to SkyRL's workers pickled.

    Attributes:
        around: the name of SkyRL's own loss.
    """

    def __init__(self, around: str, wanted: Options) -> None:
        self.around = around
        self._wanted = wanted

    def __call__(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        *,
        config: Any,
        loss_mask: Tensor | None = None,
        rollout_logprobs: Tensor | None = None,
    ) -> Any:
        """SkyRL's loss, unchanged; the KL that SkyRL asks for next is the wanted one."""
        from skyrl.backends.skyrl_train.utils import ppo_utils as own

        _put_in_place(own)
        setattr(log_probs, LEFT, (self._wanted, rollout_logprobs if old_log_probs is None else old_log_probs))
        stock_config = copy.copy(config)
        stock_config.policy_loss_type = self.around
        stock = own.PolicyLossRegistry.get(self.around)
        shown = {"config": stock_config, "loss_mask": loss_mask, "rollout_logprobs": rollout_logprobs}
        return stock(log_probs, old_log_probs, advantages, **shown)


def register(
    name: str = "kullback",
    *,
    around: str = "regular",
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> PolicyLoss:
    """Register a policy loss with SkyRL, for `trainer.algorithm.policy_loss_type`.

    To be called in the script that starts training, before Ray is. The policy's gradient stays that of `around`; the KL
    of the loss, with `use_kl_loss`, is the wanted one, `kl_loss_coef` times, and `kl_estimator_type` is not read for it
    any more. In every worker the first call exchanges `compute_approx_kl`, which serves the reward as before.

    Args:
        name: what `policy_loss_type` says.
        around: SkyRL's own policy loss.
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: "sequence": SkyRL takes the mean over a mini-batch's sequences, whatever `loss_reduction` says.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Returns:
        What was registered. A worker raises `InputError` for a `compute_approx_kl` that this was not written for.

    Raises:
        InputError: options that fit no term.

    Reference: docs/skyrl.md.
    """
    wanted = of_drawn_tokens(
        "SkyRL",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    refuse_unit(wanted, "sequence", "SkyRL's KL loss, whatever its options")
    try:
        from skyrl.backends.skyrl_train.utils import ppo_utils as own
    except ModuleNotFoundError as error:
        raise InputError(f"SkyRL's losses cannot be imported ({error}): call register where SkyRL runs") from None

    refuse_unknown(getattr(own.compute_approx_kl, "__wrapped__", own.compute_approx_kl), KNOWN)
    found = PolicyLoss(around, wanted)
    own.PolicyLossRegistry.register(name, found)
    return found


def _put_in_place(own: Any) -> None:
    """Once a process; a second time does nothing."""
    stock = own.compute_approx_kl
    if hasattr(stock, LEFT):
        return
    refuse_unknown(stock, KNOWN)

    @functools.wraps(stock)
    def compute_approx_kl(
        log_probs: Tensor, log_probs_base: Tensor, loss_mask: Tensor | None = None, *rest: Any, **options: Any
    ) -> Tensor:
        left = getattr(log_probs, LEFT, None)
        if left is None:
            found: Tensor = stock(log_probs, log_probs_base, loss_mask, *rest, **options)
            return found
        wanted, drew = left
        mask = log_probs.new_ones(log_probs.shape).bool() if loss_mask is None else loss_mask.bool()
        return over_rows(nats(wanted, log_probs, log_probs_base, mask, behavior_logprobs=drew), mask)

    setattr(compute_approx_kl, LEFT, True)
    replace(stock, compute_approx_kl)
