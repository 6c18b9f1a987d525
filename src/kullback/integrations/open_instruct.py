"""open-instruct: the KL of its GRPO loss with the gradient of a named objective.

open-instruct has no hook for it, and packs sequences into rows: `compute_grpo_loss` sees neither their borders nor the
mask. `install` stands functions in the place of three: the one that scores leaves the borders with its log-probs, the
one that masks them the mask, and the loss makes the term of both.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.replacing import Installed, refuse_unknown, replace
from kullback.integrations.terms import nats, over_tokens
from kullback.targets import Target
from kullback.weights import Truncation

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "open-instruct of 20 August 2026"
KNOWN = {
    "forward_for_logprobs": {"2e44a45f6cb0cfb1": SOURCE},
    "mask_logprobs": {"55ca18584b65dadd": SOURCE},
    "compute_grpo_loss": {"bab30629f1f8a91e": SOURCE},
}
"""Function → its fingerprint → the source that has it."""

POSITIONS, COUNTED = "_kullback_positions", "_kullback_counted"
"""Attributes of log-probs: the tokens' positions in their sequences, and where they count."""


@dataclass(frozen=True)
class Three:
    """Three replacements that stand until they are undone, by `undo()` or at the end of a `with`.

    Attributes:
        each: one a function.
    """

    each: tuple[Installed, ...]

    def undo(self) -> None:
        """Bind every name to open-instruct's functions again; a second time does nothing."""
        for one in self.each:
            one.undo()

    def __enter__(self) -> Three:
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
) -> Three:
    """Replace `compute_grpo_loss`, and what leaves it what it needs, of `open_instruct.grpo_utils` in this process.

    To be called in every process that trains, before its first step. With `load_ref_policy` the term is the wanted one,
    `beta` times; `kl_estimator` of open-instruct's options is read for its statistics alone.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: "token": with `loss_denominator="token"` open-instruct divides by the step's tokens.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other sequences of a packed row, or None.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Returns:
        What undoes it, by `undo()` or at the end of a `with`. The loss raises `InputError` for another
        `loss_denominator`, and with sequence parallelism, which splits sequences.

    Raises:
        InputError: options that fit no term, or functions that this was not written for.

    Reference: docs/open-instruct.md.
    """
    wanted = of_drawn_tokens(
        "open-instruct",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    refuse_unit(wanted, "token", "open-instruct, whatever its options")
    try:
        from open_instruct import grpo_utils as own
    except ModuleNotFoundError as error:
        raise InputError(f"open-instruct cannot be imported ({error}): call install where it trains") from None

    for name, known in KNOWN.items():
        refuse_unknown(getattr(own, name), known)
    made = (_scoring(own.forward_for_logprobs), _masking(own.mask_logprobs), _loss(own.compute_grpo_loss, wanted))
    return Three(tuple(replace(getattr(own, one.__name__), one) for one in made))


def _scoring(stock: Any) -> Any:
    @functools.wraps(stock)
    def forward_for_logprobs(
        model: Any, query_responses: Any, attention_mask: Any, position_ids: Any, *rest: Any, **options: Any
    ) -> Any:
        logprobs, entropy = stock(model, query_responses, attention_mask, position_ids, *rest, **options)
        setattr(logprobs, POSITIONS, position_ids[:, 1:])  # as the log-probs: of each token but the first
        return logprobs, entropy

    return forward_for_logprobs


def _masking(stock: Any) -> Any:
    @functools.wraps(stock)
    def mask_logprobs(logprobs: Tensor, response_mask: Tensor) -> Tensor:
        found: Tensor = stock(logprobs, response_mask)
        if hasattr(logprobs, POSITIONS):
            setattr(found, POSITIONS, getattr(logprobs, POSITIONS))
            setattr(found, COUNTED, response_mask)
        return found

    return mask_logprobs


def _loss(stock: Any, wanted: Options) -> Any:
    @functools.wraps(stock)
    def compute_grpo_loss(
        new_logprobs: Tensor, ratio: Tensor, advantages: Any, ref_logprobs: Any, *, config: Any, rho_weights: Any
    ) -> Any:
        pg_loss, clipfrac, kl = stock(new_logprobs, ratio, advantages, None, config=config, rho_weights=rho_weights)
        if ref_logprobs is None:
            return pg_loss, clipfrac, kl
        _refuse(new_logprobs, config)
        mask = getattr(new_logprobs, COUNTED).bool()
        old = new_logprobs.detach() - ratio.detach().log()
        lengths = _lengths(getattr(new_logprobs, POSITIONS))
        rows = (_unpacked(x, lengths) for x in (new_logprobs, ref_logprobs, mask, old))
        q, p, counted, drew = rows
        return pg_loss, clipfrac, over_tokens(nats(wanted, q, p, counted, behavior_logprobs=drew), mask)

    return compute_grpo_loss


def _refuse(logprobs: Tensor, config: Any) -> None:
    if not hasattr(logprobs, COUNTED):
        raise InputError(
            "log-probs came that forward_for_logprobs and mask_logprobs did not make, so nothing says where their "
            "sequences begin: call install before open-instruct's trainer is loaded"
        )
    if config.loss_denominator != "token":
        raise InputError(
            f"loss_denominator={config.loss_denominator!r} came, with which open-instruct divides by neither tokens "
            "nor sequences: set it to 'token'"
        )
    if getattr(config, "sequence_parallel_size", 1) > 1:
        raise InputError(
            f"sequence_parallel_size={config.sequence_parallel_size} came, but it splits sequences that the KL of "
            "sequences needs whole: use 1"
        )


def _lengths(positions: Tensor) -> list[int]:
    """How many tokens each sequence of the packed rows has; each begins at position 0, or at a row's first token."""
    begins = positions == 0
    begins[:, 0] = True
    starts: list[int] = begins.flatten().nonzero().flatten().tolist()
    return [end - start for start, end in zip(starts, [*starts[1:], positions.numel()], strict=True)]


def _unpacked(values: Tensor, lengths: list[int]) -> Tensor:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(list(torch.split(values.flatten(), lengths)), batch_first=True)
