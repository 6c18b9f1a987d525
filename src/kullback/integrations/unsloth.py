"""Unsloth: the KL of its GRPO loss with the gradient of a named objective.

Unsloth has no hook for its loss, and it is not called where it stands: Unsloth writes the text of the functions in
`RL_REPLACEMENTS` into a trainer of its own when `unsloth` is imported. So `install` puts a function there whose text is
a call back to this module, before that.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.replacing import refuse_unknown
from kullback.integrations.terms import nats
from kullback.targets import Target
from kullback.weights import Truncation

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = {"6cc9f1057dcd41c5": "unsloth-zoo 2026.10.9"}
"""Fingerprint of `grpo_compute_loss` → the release that has it."""

NAMES = ("grpo_compute_loss", "grpo_compute_loss_slow")
PER_TOKEN = ("dapo", "cispo", "vespo", "bnpo")
PER_SEQUENCE = ("grpo", "sapo", "luspo")


@dataclass
class Installed:
    """Unsloth's replacements as they were, until `undo()` or the end of a `with`.

    Attributes:
        stock: Unsloth's function.
        wanted: the term.
        places: Unsloth's table of replacements.
        before: what stood there.
    """

    stock: Callable[..., Any]
    wanted: Options
    places: dict[str, Any]
    before: dict[str, Any]

    def undo(self) -> None:
        """Put Unsloth's text there again, for a trainer that is written after this."""
        global _installed
        self.places.update(self.before)
        _installed = None

    def __enter__(self) -> Installed:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


_installed: Installed | None = None


def install(
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> Installed:
    """Replace `grpo_compute_loss` in the text that Unsloth writes; to be called before `import unsloth`.

    `GRPOConfig.beta` stays β; `use_bias_correction_kl` is not read any more, nor are Unsloth's clamps.

    Args:
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what `beta` multiplies: "token" with the loss types dapo, cispo, vespo and bnpo, which divide by
            tokens; "sequence" with grpo, sapo and luspo, which divide by rows.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Returns:
        What undoes it, by `undo()` or at the end of a `with`.

    Raises:
        InputError: options that fit no term, an `unsloth` that is imported already or compiles, or another source.

    Reference: docs/unsloth.md.
    """
    global _installed
    wanted = of_drawn_tokens(
        "Unsloth",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    if "unsloth" in sys.modules:
        raise InputError("unsloth was imported, which wrote its trainer then: call install before `import unsloth`")
    if os.environ.get("UNSLOTH_COMPILE_DISABLE") not in ("1", "partial"):
        raise InputError(
            "Unsloth compiles its loss as one graph, which the term is not: set the environment variable "
            "UNSLOTH_COMPILE_DISABLE=1"
        )
    if _installed is not None:
        raise InputError("unsloth's loss was replaced already: undo that before it is replaced anew")
    try:
        from unsloth_zoo import rl_replacements as own
    except (ImportError, NotImplementedError) as error:
        raise InputError(f"unsloth_zoo cannot be imported ({error}): call install where Unsloth trains") from None

    places: dict[str, Any] = own.RL_REPLACEMENTS
    before = {name: places[name] for name in NAMES}
    refuse_unknown(before["grpo_compute_loss"], KNOWN)
    _installed = Installed(before["grpo_compute_loss"], wanted, places, before)
    places["grpo_compute_loss"] = grpo_compute_loss
    text = inspect.getsource(grpo_compute_loss)
    places["grpo_compute_loss_slow"] = text.replace("def grpo_compute_loss", "def grpo_compute_loss_slow")
    return _installed


# Unsloth copies this text into a module of its own: it may name nothing of this one.
def grpo_compute_loss(ref, new, old, *rest, **kwargs):  # type: ignore[no-untyped-def]
    """Unsloth's loss, with another KL."""
    from kullback.integrations.unsloth import with_kl

    sampled, input_ids, mask, beta, advantages = rest
    return with_kl((ref, new, old, sampled, input_ids, mask), beta, advantages, kwargs)


def with_kl(rows: tuple[Any, ...], beta: float, advantages: Tensor, options: dict[str, Any]) -> tuple[Any, ...]:
    """Unsloth's loss with its KL off, and the installed term beside it.

    Args:
        rows: of the reference, the policy, π_old (or None), the engine, the tokens and the mask, (batch, time).
        beta: β.
        advantages: of the rows.
        options: the further arguments of Unsloth's loss.
    """
    if _installed is None:
        raise InputError("Unsloth's trainer was written for kullback's KL: call kullback.integrations.unsloth.install")
    ref, new, old, _, _, mask = rows
    stock, wanted = _installed.stock, _installed.wanted
    if not beta:
        found: tuple[Any, ...] = stock(*rows, beta, advantages, **options)
        return found
    _refuse(wanted, options)
    loss, length, _, *rest = stock(*rows, 0.0, advantages, **options)
    counted = mask.bool()
    total = nats(wanted, new, ref, counted, behavior_logprobs=old)
    term = total / _divisor(counted, options)
    return (loss + beta * term, length, term.detach(), *rest)


def _refuse(wanted: Options, options: dict[str, Any]) -> None:
    kind = options.get("loss_type", "grpo")
    if options.get("sample_weight") is not None or options.get("rollout_rs") is not None:
        raise InputError(
            "sample weights or rejected tokens (rollout_rs) came, but the KL is of whole sequences, each once: leave "
            "them out"
        )
    if kind not in (*PER_TOKEN, *PER_SEQUENCE):
        raise InputError(
            f"loss_type={kind!r} came, with which Unsloth divides by neither tokens nor sequences: use one of "
            f"{', '.join((*PER_TOKEN, *PER_SEQUENCE))}"
        )
    refuse_unit(wanted, "token" if kind in PER_TOKEN else "sequence", f"loss_type={kind!r}")


def _divisor(mask: Tensor, options: dict[str, Any]) -> Any:
    """What Unsloth divides the micro-batch's sum by."""
    kind, steps = options.get("loss_type", "grpo"), options.get("current_gradient_accumulation_steps", 1)
    if kind in PER_SEQUENCE:
        return len(mask) * steps
    if kind == "bnpo":
        return mask.sum().clamp(min=1) * steps
    # A tensor as Unsloth's trainer has it, or a number.
    found = options["num_items_in_batch"] * 1.0
    found = (found.clamp(min=1.0) if hasattr(found, "clamp") else max(found, 1.0)) / options.get("num_processes", 1)
    generation = options.get("steps_per_generation")
    return found * steps / generation if generation else found
