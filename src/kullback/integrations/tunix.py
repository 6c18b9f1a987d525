"""tunix: its GRPO loss with a KL whose gradient is that of a named objective, by its registry of policy losses. JAX."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.terms import nats
from kullback.targets import Target
from kullback.weights import Truncation


def register(
    name: str = "kullback",
    *,
    around: str = "grpo",
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> Callable[..., Any]:
    """Register a policy loss with tunix, for `GRPOConfig(policy_loss_fn=…)`.

    It calls tunix's own with `beta = 0` and adds β times the term; `kl_loss_mode` and `kl_clamp_value` are read for
    the logged `kl` alone. The log-probs are asked for a second time, which XLA sees to be the same.

    Args:
        name: what `policy_loss_fn` says.
        around: the registered loss that it is put around.
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what `beta` multiplies: "token" where `loss_agg_mode` is "token-mean", "sequence" for every other
            one, since those divide by sequences.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Returns:
        What was registered. It raises `InputError` for the unit that tunix's division does not give, without the
        reference's log-probs, and with packed sequences, which share a row.

    Raises:
        InputError: options that fit no term.

    Reference: docs/tunix.md.
    """
    wanted = of_drawn_tokens(
        "tunix",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    try:
        from tunix.rl import algo_core as own  # which registers tunix's losses
    except ModuleNotFoundError as error:
        raise InputError(f"tunix's losses cannot be imported ({error}): call register where tunix runs") from None

    stock = own.function_registry.get_policy_loss_fn(around)

    def loss(model: Any, train_example: Any, algo_config: Any, **options: Any) -> Any:
        if not algo_config.beta:
            return stock(model, train_example, algo_config, **options)
        _refuse(wanted, train_example, algo_config)
        without = copy.copy(algo_config)
        without.beta = 0.0
        found = stock(model, train_example, without, **options)
        logprobs = _logprobs(own, model, train_example, algo_config, options)
        mask = train_example.completion_mask.astype(bool)
        total = nats(
            wanted,
            logprobs,
            train_example.ref_per_token_logps,
            mask,
            behavior_logprobs=train_example.old_per_token_logps,
        )
        return _beside(found, total, mask, algo_config.beta, wanted)

    own.function_registry.register_policy_loss_fn(name)(loss)
    return loss


def keep_ends(rollout: Any) -> Any:
    """Count the token that ends a sequence, which tunix's own sampler leaves out of what it returns; returns `rollout`.

    Without it neither tunix's KL nor this one, nor the reward's gradient, sees the decision to stop: what is followed
    is not the KL of sequences. To be called on `rl_cluster.rollout` before the learner trains; vLLM's engine has the
    token, and is left alone.

    Args:
        rollout: `rl_cluster.rollout`.

    Raises:
        InputError: a rollout that returns log-probs, among which the end token's are missing; or a padding token that
            is the end token, which tunix's mask would leave out again.

    Reference: docs/tunix.md.

    Example:
        >>> from types import SimpleNamespace
        >>> from kullback.integrations import tunix
        >>> class Rollout:
        ...     pad_id, eos_id = staticmethod(lambda: 0), staticmethod(lambda: 1)
        ...     def generate(self, prompts, rollout_config):
        ...         return SimpleNamespace(tokens=[[3, 2], [3, 3, 2]], logprobs=None)
        >>> config = SimpleNamespace(max_tokens_to_generate=3, eos_tokens=None)
        >>> [x.tolist() for x in tunix.keep_ends(Rollout()).generate(["a", "b"], config).tokens]
        [[3, 2, 1], [3, 3, 2]]
    """
    end, stock = rollout.eos_id(), rollout.generate
    if end == rollout.pad_id():
        raise InputError(
            f"token {end} came as both padding and end, but tunix's mask leaves out every padding token: give the "
            "tokenizer a padding token of its own"
        )

    def generate(prompts: Any, rollout_config: Any, **options: Any) -> Any:
        found = stock(prompts, rollout_config, **options)
        if found.logprobs:
            raise InputError(
                "return_logprobs=True came, but the sampler gives none of the end token: pass return_logprobs=False"
            )
        ends = set(rollout_config.eos_tokens or [end])
        if len(ends) > 1:
            raise InputError(f"eos_tokens={sorted(ends)} came, but which of them ended a row cannot be told: pass one")
        found.tokens = [_ended(row, ends, rollout_config.max_tokens_to_generate) for row in found.tokens]
        return found

    rollout.generate = generate
    return rollout


def _ended(row: Any, ends: set[int], longest: int) -> Any:
    """The tokens of a row with the one that ended it, if it did: a row that is as long as it may be was cut off."""
    whole = len(row) == longest or (len(row) and int(row[-1]) in ends)
    return np.asarray(row if whole else [*row, *ends])


def _refuse(wanted: Options, train_example: Any, algo_config: Any) -> None:
    mode = algo_config.loss_agg_mode
    refuse_unit(wanted, "token" if mode == "token-mean" else "sequence", f"loss_agg_mode={mode!r}")
    if getattr(train_example, "segment_ids", None) is not None:
        raise InputError("segment_ids came, but packed sequences share a row, and the KL is of sequences: do not pack")
    if train_example.ref_per_token_logps is None:
        raise InputError("ref_per_token_logps=None came with beta above 0: give the cluster a reference model")


def _logprobs(own: Any, model: Any, example: Any, config: Any, options: dict[str, Any]) -> Any:
    graphdef, state = own.nnx.split(model)
    chunks = {"chunk_size": options["compute_logps_chunk_size"]} if "compute_logps_chunk_size" in options else {}
    return own.common.compute_per_token_logps(
        graphdef,
        state,
        prompt_tokens=example.prompt_ids,
        completion_tokens=example.completion_ids,
        pad_id=options["pad_id"],
        eos_id=options["eos_id"],
        stop_gradient=False,
        temperature=config.temperature,
        **chunks,
    )


def _beside(found: Any, total: Any, mask: Any, beta: float, wanted: Options) -> Any:
    """tunix's result with the term in it: a loss and a log, or since its gradients are accumulated, sums of both."""
    import jax.numpy as jnp

    total = total.astype(jnp.float32)
    if not isinstance(found, tuple):
        stock, log = found.primary_loss, dict(found.aux_metrics)
        log["kl_loss"] = stock.replace(unreduced_sum=total)
        with_kl = stock.replace(unreduced_sum=stock.unreduced_sum + beta * total)
        return found.replace(primary_loss=with_kl, aux_metrics=log)
    counted = mask.sum() if wanted.unit == "token" else mask.any(-1).sum()
    term = total / jnp.maximum(counted, 1)
    loss, log = found
    return loss + beta * term, {**log, "kl_loss": term}
