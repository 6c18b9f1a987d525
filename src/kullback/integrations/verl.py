"""verl: the actor's loss with a KL whose gradient is that of a named objective.

verl's registries (`register_policy_loss`, `register_adv_est`) are not shown the reference's log-probs, and
`kl_penalty`, which is, has none. So `install` stands a function in the place of `verl.workers.utils.losses.ppo_loss`:
verl's own with its KL switched off, and the term beside it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from kullback.errors import InputError
from kullback.estimators import K1, RAO_BLACKWELL, Estimator, member
from kullback.integrations.options import Options, options
from kullback.integrations.replacing import Installed, refuse_unknown, replace
from kullback.integrations.terms import Shares, nats
from kullback.targets import Target
from kullback.weights import Truncation

KNOWN = {"d7c0f8772b444f55": "verl 0.9.1"}
"""Fingerprint of `ppo_loss` → the release that has it."""


def install(
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> Installed:
    """Replace `verl.workers.utils.losses.ppo_loss` in this process, wherever it was imported to.

    To be called in every process that trains, before the workers are built: from a module that the environment variable
    VERL_USE_EXTERNAL_MODULES names. The term is added where the actor's `use_kl_loss` is on, `kl_loss_coef` times; its
    `kl_loss_type` is not read any more. Everything else of the loss stays verl's.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what `kl_loss_coef` multiplies, "token" (nats a token of the mini-batch, as verl's `token-mean`)
            or "sequence" (nats a sequence, as its `seq-mean-token-sum`).
        kl_estimator: K1, K3 or ControlVariate(λ). The loss is not shown logits, so there is no `RAO_BLACKWELL`.
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None.
        kl_truncate: how the weights π/π_old of later mini-batches are capped; None is unbiased.

    Returns:
        What undoes it, by `undo()` or at the end of a `with`.

    Raises:
        InputError: options that fit no term, or a `ppo_loss` that this was not written for.

    Reference: docs/verl.md.
    """
    if member(kl_estimator) is RAO_BLACKWELL:
        raise InputError(
            "kl_estimator=rao_blackwell came, but verl's loss is shown log-probs and no logits: use kullback.K1, "
            "kullback.K3 or kullback.ControlVariate(λ)"
        )
    wanted = options(
        1.0,
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    try:
        from verl.workers.utils import losses
    except ModuleNotFoundError as error:
        raise InputError(
            f"verl's losses cannot be imported ({error}): call install where verl runs, as in a module that "
            "VERL_USE_EXTERNAL_MODULES names"
        ) from None

    refuse_unknown(losses.ppo_loss, KNOWN)
    return replace(losses.ppo_loss, with_kl(losses.ppo_loss, wanted))


def with_kl(stock: Callable[..., Any], wanted: Options) -> Callable[..., Any]:
    """verl's `ppo_loss`, with the KL as `wanted` in the place of its own.

    Args:
        stock: verl's; also for `TrainingWorker.set_loss_fn`, in a worker of your own.
        wanted: the term.
    """

    @functools.wraps(stock)
    def ppo_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
        if not config.use_kl_loss:
            return stock(config, model_output, data, dp_group)
        loss, metrics = stock(_without_kl(config), model_output, data, dp_group)
        term, logged = _term(wanted, config.global_batch_info, model_output, data)
        kind = metrics["actor/pg_loss"]
        metrics.update({name: type(kind)(value=x, aggregation=kind.aggregation) for name, x in logged.items()})
        metrics["kl_coef"] = config.kl_loss_coef
        return loss + config.kl_loss_coef * term, metrics

    return ppo_loss


def _without_kl(config: Any) -> Any:
    """The same config, sharing what is inside, whose own KL is off."""
    other = copy.copy(config)
    object.__setattr__(other, "use_kl_loss", False)
    return other


def _term(wanted: Options, info: Any, model_output: Any, data: Any) -> tuple[Any, dict[str, Any]]:
    """This micro-batch's part of the mini-batch's KL in the unit of β, and both readings of it for the log."""
    from verl.workers.utils.padding import no_padding_2_padding

    logprobs = no_padding_2_padding(model_output["log_probs"], data)
    padded = data.select("response_mask", "old_log_probs", "ref_log_prob").to_padded_tensor()
    mask = padded["response_mask"].to(bool)
    total = nats(wanted, logprobs, padded["ref_log_prob"], mask, behavior_logprobs=padded["old_log_probs"])
    tokens, sequences = info.get("batch_num_tokens"), info.get("global_batch_size")
    shares = Shares(
        tokens=mask.sum() if tokens is None else tokens,
        sequences=mask.any(-1).sum() if sequences is None else sequences,
        scale=float(info.get("dp_size") or 1),
    )
    term = shares.of(total, wanted.unit)
    value = total.detach()
    return term, {"kl_loss": term.detach(), "kl_loss/sequence": shares.of(value, "sequence")}
