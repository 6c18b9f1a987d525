"""prime-rl: its loss with a KL whose gradient is that of a named objective, by `trainer.loss.import_path`.

prime-rl has two KLs: to the engine's policy, in the loss of the `rl` component, which a custom loss replaces; and to a
teacher, in that of the `ref_kl` component (`opd`, `opsd`), which has no hook: `install` stands another in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.replacing import Installed, refuse_unknown, replace
from kullback.integrations.terms import nats
from kullback.targets import Target
from kullback.weights import Truncation

KlTo = Literal["inference", "reference"]

KNOWN = {"33c2462934fa889c": "prime-rl of 21 August 2026"}
"""Fingerprint of `ref_kl_loss_fn` → the source that has it."""

BECAUSE = "prime-rl, whatever its options"


def rl_loss(
    beta: float,
    *,
    kl_to: KlTo,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_truncate: Truncation | float | str | None = None,
) -> Callable[..., Any]:
    """The function that `trainer.loss = {type = "custom", import_path = …}` is to name.

    It calls prime-rl's default loss with `kl_tau = 0` and adds β times the term; `trainer.loss.kwargs` are the options
    of `DefaultLossConfig` (or of `IPOLossConfig`, with `ipo_threshold` among them) but for `kl_tau`.

    Args:
        beta: β, the coefficient.
        kl_to: "inference", the policy that drew the rows, as `kl_tau`'s own term; or "reference", where the
            orchestrator scores samples of the `rl` component with one.
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what β multiplies: "token", since prime-rl divides by the step's tokens.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_truncate: how the weights π/π_inference are capped; None is unbiased.

    Returns:
        loss(inputs, **kwargs) → `LossOutputs`. It raises `InputError` where samples come without the reference's
        log-probs, and where one sample's tokens have several weights.

    Raises:
        InputError: options that fit no term.

    Reference: docs/prime-rl.md.
    """
    if kl_to not in get_args(KlTo):
        raise InputError(f"kl_to={kl_to!r} came, but it is 'inference' or 'reference'")
    wanted = _wanted(kl_objective, kl_beta_unit, kl_estimator, kl_truncate)

    def loss(inputs: Any, **kwargs: Any) -> Any:
        from prime_rl.configs.trainer import DefaultLossConfig, IPOLossConfig
        from prime_rl.trainer.rl import loss as own

        if "ipo_threshold" in kwargs:
            found = own.ipo_loss_fn(inputs, IPOLossConfig(**kwargs, kl_tau=0.0))
        else:
            found = own.default_loss_fn(inputs, DefaultLossConfig(**kwargs, kl_tau=0.0))
        total = _nats(wanted, inputs, inputs.inference_logprobs if kl_to == "inference" else _reference(inputs))
        metrics = {**found.metrics, f"kl_to_{kl_to}": total.detach()}
        return own.LossOutputs(loss=found.loss + beta * _weight(inputs) * total, metrics=metrics)

    return loss


def install(
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_truncate: Truncation | float | str | None = None,
) -> Installed:
    """Replace `prime_rl.trainer.rl.loss.ref_kl_loss_fn`, the loss of distillation, in this process.

    Its gradient credits a token with its own log-ratio alone, drops tokens outside a trust region and adds 0.001 times
    the squared log-ratio to the engine. What stands in its place is the KL to the teacher and nothing else. To be
    called from a module that the trainer imports, that of `trainer.loss.import_path` say.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: "token": prime-rl divides by the step's tokens. β is the component's weight.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_truncate: how the weights π/π_inference are capped; None is unbiased.

    Returns:
        What undoes it, by `undo()` or at the end of a `with`.

    Raises:
        InputError: options that fit no term, or a `ref_kl_loss_fn` that this was not written for.

    Reference: docs/prime-rl.md.
    """
    wanted = _wanted(kl_objective, kl_beta_unit, kl_estimator, kl_truncate)
    try:
        from prime_rl.trainer.rl import loss as own
    except ModuleNotFoundError as error:
        raise InputError(
            f"prime-rl's losses cannot be imported ({error}): call install where its trainer runs, as in the module of "
            "trainer.loss.import_path"
        ) from None

    refuse_unknown(own.ref_kl_loss_fn, KNOWN)

    @functools.wraps(own.ref_kl_loss_fn)
    def ref_kl_loss_fn(inputs: Any) -> Any:
        total = _nats(wanted, inputs, _reference(inputs))
        return own.LossOutputs(loss=_weight(inputs) * total, metrics={"ref_kl/sequence": total.detach()})

    return replace(own.ref_kl_loss_fn, ref_kl_loss_fn)


def _wanted(objective: Target, unit: str, estimator: Estimator | str, truncate: Any) -> Options:
    wanted = of_drawn_tokens(
        "prime-rl", objective=objective, estimator=estimator, baseline=None, unit=unit, truncate=truncate
    )
    refuse_unit(wanted, "token", BECAUSE)
    return wanted


def _nats(wanted: Options, inputs: Any, reference: Any) -> Any:
    """One sample's nats; what drew it is the engine's policy."""
    return nats(
        wanted,
        inputs.trainer_logprobs[None],
        reference[None],
        inputs.loss_mask[None],
        behavior_logprobs=inputs.inference_logprobs[None],
    )


def _reference(inputs: Any) -> Any:
    if inputs.ref_logprobs is None:
        raise InputError(
            "a sample came without ref_logprobs, which the KL to the reference needs: take an algorithm that scores "
            "samples with one ('opd', 'opsd'), or kl_to='inference'"
        )
    return inputs.ref_logprobs


def _weight(inputs: Any) -> Any:
    """The component's weight of a sample: of the KL of a whole sequence there is one."""
    if inputs.loss_weights is None:
        return 1.0
    found = inputs.loss_weights[inputs.loss_mask]
    if not found.numel():
        return 0.0
    if bool((found != found[0]).any()):
        raise InputError(
            f"loss_weights from {float(found.min()):g} to {float(found.max()):g} came for one sample, but the KL of a "
            "sequence has one weight: give its tokens the same"
        )
    return found[0]
