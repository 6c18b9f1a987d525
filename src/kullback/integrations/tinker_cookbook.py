"""tinker-cookbook: the KL in its advantages with the gradient of a named objective.

Tinker's losses are sums of advantage times log-prob, and `incorporate_kl_penalty` puts the KL to the base model into
the advantages. It has no hook: `install` stands in its place a function that subtracts what each token's log-prob is to
be credited with for the gradient to be the objective's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.replacing import Installed, refuse_unknown, replace
from kullback.integrations.terms import coefficients
from kullback.targets import Target

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = {"c3641daffc331e80": "tinker-cookbook 0.6.1"}
"""Fingerprint of `rl.metrics.incorporate_kl_penalty` → the release that has it."""


def install(
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
) -> Installed:
    """Replace `tinker_cookbook.rl.metrics.incorporate_kl_penalty` in this process, wherever it was imported to.

    To be called in the script, before `tinker_cookbook.rl.train.main`. `kl_penalty_coef` is β, and
    `kl_discount_factor` has to be 0, its default: what follows a token is in its credit already.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: "sequence": Tinker's losses are sums, in which β · KL stands beside a sequence's reward.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of the batch, or None.

    Returns:
        What undoes it, by `undo()` or at the end of a `with`.

    Raises:
        InputError: options that fit no term, or a function that this was not written for.

    Reference: docs/tinker-cookbook.md.
    """
    wanted = of_drawn_tokens(
        "tinker-cookbook",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=None,
    )
    refuse_unit(wanted, "sequence", "tinker-cookbook, whatever its options")
    try:
        from tinker_cookbook.rl import metrics as own
    except ModuleNotFoundError as error:
        raise InputError(f"tinker-cookbook cannot be imported ({error}): call install where it runs") from None

    stock = own.incorporate_kl_penalty
    refuse_unknown(getattr(stock, "__wrapped__", stock), KNOWN)  # out of its own tracing

    @functools.wraps(stock)
    async def incorporate_kl_penalty(
        data_D: Any, base_sampling_client: Any, kl_penalty_coef: float, kl_discount_factor: float
    ) -> Any:
        if kl_discount_factor:
            raise InputError(
                f"kl_discount_factor={kl_discount_factor:g} came, but a token is credited with the KL that follows it "
                "already: set it to 0"
            )
        base, usage = await own.score_sequences(base_sampling_client, own._full_sequence_inputs(data_D))
        logged = _penalise(own, wanted, data_D, base, kl_penalty_coef)
        return logged, usage

    return replace(stock, incorporate_kl_penalty)


def _penalise(own: Any, wanted: Options, data: Any, base: Any, beta: float) -> dict[str, float]:
    import torch

    q = _padded([datum.loss_fn_inputs["logprobs"].to_torch().float() for datum in data])
    p = _padded([torch.tensor(logprobs[1:]) for logprobs in base]).to(q)
    mask = _padded([datum.loss_fn_inputs["mask"].to_torch() > 0 for datum in data])
    credit = beta * coefficients(wanted, q, p, mask)
    for row, datum in zip(credit, data, strict=True):
        before = datum.loss_fn_inputs["advantages"].to_torch()
        after = before - row[: len(before)].to(before)
        datum.loss_fn_inputs["advantages"] = own.tinker.TensorData.from_torch(after)
    apart = (q - p).where(mask, 0.0).sum()
    return {
        "kl_policy_base": float(apart / mask.sum().clamp(min=1)),
        "kl_policy_base/sequence": float(apart / mask.any(-1).sum().clamp(min=1)),
    }


def _padded(rows: list[Tensor]) -> Tensor:
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(rows, batch_first=True)
