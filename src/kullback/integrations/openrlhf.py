"""OpenRLHF: the KL of its actor's loss with the gradient of a named objective.

OpenRLHF has no hook for it: `compute_approx_kl` is shown the log-probs and no mask, `aggregate_loss` the mask and the
counts of the step. `install` stands functions in the place of both: the first leaves with its result what it was
called with, from which the second makes the term.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import of_drawn_tokens
from kullback.integrations.replacing import Installed, refuse_unknown, replace
from kullback.integrations.terms import Shares, nats
from kullback.targets import Target
from kullback.weights import Truncation

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = {"1aa20ac441228e96": "OpenRLHF 0.11.2"}
"""Fingerprint of `compute_approx_kl` → the release that has it."""

KNOWN_SUMS = {"cfc652fc72b86752": "OpenRLHF 0.11.2"}
"""The same of `aggregate_loss`."""

LEFT = "_kullback_rows"
"""Attribute of what `compute_approx_kl` returns: the log-probs that it was called with."""


@dataclass(frozen=True)
class Both:
    """Two replacements that stand until they are undone, by `undo()` or at the end of a `with`.

    Attributes:
        terms: that of `compute_approx_kl`.
        sums: that of `aggregate_loss`.
    """

    terms: Installed
    sums: Installed

    def undo(self) -> None:
        """Bind every name to OpenRLHF's functions again; a second time does nothing."""
        self.sums.undo()
        self.terms.undo()

    def __enter__(self) -> Both:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def install(
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> Both:
    """Replace `compute_approx_kl` and `aggregate_loss` in this process, wherever they were imported to.

    To be called in every process that trains the actor. With `algo.kl.use_loss` the term is the wanted one, and
    `algo.kl.init_coef` is β; `algo.kl.estimator` and `algo.kl.unbiased_gradient` are not read for it any more. The KL
    in the reward, which OpenRLHF sums elsewhere, and every other loss stay as they are.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what β multiplies, "token" (nats a token of the step, as OpenRLHF's own) or "sequence".
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Returns:
        What undoes it, by `undo()` or at the end of a `with`.

    Raises:
        InputError: options that fit no term, or functions that this was not written for.

    Reference: docs/openrlhf.md.
    """
    wanted = of_drawn_tokens(
        "OpenRLHF",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    try:
        from openrlhf.models import loss as sums
        from openrlhf.models import utils as terms
    except ModuleNotFoundError as error:
        raise InputError(
            f"OpenRLHF's losses cannot be imported ({error}): call install where OpenRLHF trains"
        ) from None

    stock, stock_sum = terms.compute_approx_kl, sums.aggregate_loss
    refuse_unknown(stock, KNOWN)
    refuse_unknown(stock_sum, KNOWN_SUMS)

    @functools.wraps(stock)
    def compute_approx_kl(
        log_probs: Tensor, log_probs_base: Tensor, log_probs_old: Tensor | None = None, *rest: Any, **options: Any
    ) -> Tensor:
        found: Tensor = stock(log_probs, log_probs_base, log_probs_old, *rest, **options)
        setattr(found, LEFT, (log_probs, log_probs_base, log_probs_old))
        return found

    @functools.wraps(stock_sum)
    def aggregate_loss(loss: Tensor, loss_mask: Tensor, *rest: Any, **counts: Any) -> Tensor:
        left = getattr(loss, LEFT, None)
        if left is None:
            found: Tensor = stock_sum(loss, loss_mask, *rest, **counts)
            return found
        logprobs, reference, old = left
        mask = loss_mask.bool()
        batch_num_tokens, global_batch_size = counts.get("batch_num_tokens"), counts.get("global_batch_size")
        shares = Shares(
            tokens=mask.sum() if batch_num_tokens is None else batch_num_tokens,
            sequences=mask.any(-1).sum() if global_batch_size is None else global_batch_size,
            scale=float(counts.get("dp_size", 1)),
        )
        return shares.of(nats(wanted, logprobs, reference, mask, behavior_logprobs=old), wanted.unit)

    return Both(replace(stock, compute_approx_kl), replace(stock_sum, aggregate_loss))
