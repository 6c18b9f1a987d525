"""miles: its policy loss with a KL whose gradient is that of a named objective, by `--custom-loss-function-path`.

miles came from slime, and is shown the same: the policy's logits and the reference's log-probs of the drawn tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.terms import nats
from kullback.targets import Target
from kullback.weights import Truncation

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[[Any, Any, Any, Callable[[Any], Any]], tuple[Any, dict[str, Any]]]


def policy_loss(
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> Loss:
    """The function that `--custom-loss-function-path` is to name, with `--loss-type custom_loss --use-kl-loss`.

    It calls miles' `policy_loss_function` with the KL off and adds `kl_loss_coef` times the term; `--kl-loss-type` and
    `--use-unbiased-kl` are not read any more. The log-probs are computed a second time from the logits.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what `--kl-loss-coef` multiplies: "token" with `--calculate-per-token-loss`, with which miles
            divides by the step's tokens, and "sequence" without, where it divides by its samples.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Returns:
        loss(args, batch, logits, sum_of_sample_mean) → the loss and what is logged. It raises `InputError` for the
        unit that miles' division does not give, without `--use-kl-loss`, and with context parallelism, which splits
        sequences that the term needs whole.

    Raises:
        InputError: options that fit no term.

    Reference: docs/miles.md.
    """
    wanted = of_drawn_tokens(
        "miles",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )

    def loss(
        args: Any, batch: Any, logits: Any, sum_of_sample_mean: Callable[[Any], Any]
    ) -> tuple[Any, dict[str, Any]]:
        from miles.backends.training_utils.loss_hub import losses as own

        _refuse(args, wanted, own)
        stock_args = copy.copy(args)
        stock_args.use_kl_loss = False
        value, logged = own.policy_loss_function(stock_args, batch, logits, sum_of_sample_mean)
        total = _term(own, args, batch, logits, wanted)
        value = value + args.kl_loss_coef * total
        return value, {**logged, "loss": value.detach().clone(), "kl_loss": total.detach().clone()}

    return loss


def _refuse(args: Any, wanted: Options, own: Any) -> None:
    if not args.use_kl_loss:
        raise InputError(
            "use_kl_loss=False came, but the KL of the loss needs the reference's log-probs: pass --use-kl-loss"
        )
    if own.get_parallel_state().cp.size > 1:
        raise InputError(
            "context_parallel_size above 1 came, but it splits sequences that the KL of sequences needs whole: use 1"
        )
    per_token = bool(args.calculate_per_token_loss)
    refuse_unit(wanted, "token" if per_token else "sequence", f"calculate_per_token_loss={per_token}")


def _term(own: Any, args: Any, batch: Any, logits: Tensor, wanted: Options) -> Tensor:
    """The samples' KL in nats, summed: miles divides by the step's samples or tokens."""
    found = own.get_log_probs_and_entropy(
        logits,
        args=args,
        unconcat_tokens=batch["unconcat_tokens"],
        total_lengths=batch["total_lengths"],
        response_lengths=batch["response_lengths"],
        with_entropy=False,
        max_seq_lens=batch.get("max_seq_lens"),
    )
    if args.use_rollout_logprobs:
        old = batch["rollout_log_probs"]
    else:  # with the forward pass of π_old skipped the policy has not moved from it
        old = None if args.skip_actor_forward_only else batch["log_probs"]
    return nats(
        wanted,
        _padded(found["log_probs"]),
        _padded(batch["ref_log_probs"]),
        _padded(batch["loss_masks"]).bool(),
        behavior_logprobs=None if old is None else _padded(old),
    )


def _padded(rows: list[Tensor]) -> Tensor:
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(rows, batch_first=True)
