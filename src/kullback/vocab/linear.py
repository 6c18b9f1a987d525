"""From hidden states and LM heads: the same quantities, without ever holding tokens × vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kullback.errors import InputError, ShapeError
from kullback.vocab import head_ops, partition, shards
from kullback.vocab.backends import choose
from kullback.vocab.logits import (
    Direction,
    Plan,
    Where,
    check_floating,
    check_integers,
    plan,
    result_like,
    token_results,
)
from kullback.vocab.ops import differentiable

Precision = Literal["float32", "input"]


@dataclass(frozen=True)
class Heads:
    """What the operators take of one head or two.

    Attributes:
        biased: whether each has a bias.
        numbers: scale and softcap of each.
        rounded: whether logits are rounded to the dtype of the hidden states.
        workspace: bytes of logits held at a time; 0 is the device's default.
    """

    biased: tuple[bool, ...]
    numbers: tuple[float, ...]
    rounded: bool
    workspace: int

    def arguments(self) -> tuple[list[bool], list[float], bool, int]:
        """In the operators' order."""
        return list(self.biased), list(self.numbers), self.rounded, self.workspace


def linear_token_kl(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    *,
    bias: Tensor | None = None,
    ref_bias: Tensor | None = None,
    direction: Direction = "reverse",
    skew: float = 1.0,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    precision: Precision = "float32",
    workspace: int | None = None,
    group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """``token_kl`` from hidden states and LM heads, whose logits are made a block at a time and forgotten.

    The logits are c·tanh(s(h·Wᵀ + bias)/c)/T with scale s and softcap c. Any upstream gradient may come: the
    backward pass makes the logits again (12 N·H·V flops in all, against the 8 of ``linear_weighted_kl``, whose
    weights are known beforehand). Differentiable once in all six tensors. Memory beyond the gradients: one
    workspace and 40 bytes a token. The divergences to a mixture take two sweeps over the logits forward.

    Products are accumulated and kept in float32 also where the inputs are in half precision: logits
    rounded to bfloat16 add about 2e-4 nats to every KL, more than most of RL's. ``precision="input"``
    rounds them all the same, for speed (on a CPU several times faster).

    Args:
        hidden: (…, hidden), of the policy, before its LM head.
        weight: (vocab, hidden), of the policy's LM head.
        ref_hidden: (…, ref_hidden), of the reference; the sizes of the hidden states may differ.
        ref_weight: (vocab, ref_hidden).
        bias, ref_bias: (vocab,), of the heads.
        direction, skew, temperature: as for ``token_kl``.
        scale: of both models' logits, before the cap.
        softcap: of both models' logits (Gemma 2 has 30); None leaves them uncapped.
        precision: ``"float32"`` logits, or ``"input"``: logits rounded to the dtype of the hidden states.
        workspace: bytes of logits held at a time; None is 128 MiB on a CPU and 1 GiB elsewhere.
        group: the ``torch.distributed`` group over which the heads' vocabulary is split; the hidden states
            are the same on every rank, and their gradients are summed over the group.
        backend: ``"eager"``, ``"compile"`` or ``"triton"``; None is Triton on CUDA, else eager.

    Returns:
        (…), in nats, float32 (float64 for float64 inputs).

    Raises:
        ShapeError: hidden states and heads that do not fit together.
        InputError: an option that cannot be right.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> hidden, weight, ref_weight = torch.eye(2), torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> kb.vocab.linear_token_kl(hidden, weight, hidden, ref_weight)
        tensor([0.1201, 0.0000])
    """
    check_head(hidden, weight, bias, "")
    check_head(ref_hidden, ref_weight, ref_bias, "ref_")
    check_pair(hidden, weight, ref_hidden, ref_weight)
    chosen, swapped = plan(direction, skew, 1.0, backend, group, hidden.device)
    numbers = head_numbers(scale, softcap, temperature)
    q, p = (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias)
    first, second = (p, q) if swapped else (q, p)
    heads = Heads((first[2] is not None, second[2] is not None), numbers * 2, rounds(precision), held(workspace))
    flat = [*flattened(*first), *flattened(*second)]
    value: Tensor = differentiable(_LinearPair, chosen, heads, *flat)
    return value.view(hidden.shape[:-1])


class _LinearPair(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, heads: Heads, *inputs: Tensor | None) -> Tensor:
        tensors = [x for x in inputs if x is not None]
        common = (*heads.arguments(), plan.backend)
        saved = partition.saved_of_pairs(head_ops.pair_statistics(tensors, *common), plan.divergence, plan.group)
        if not plan.divergence.chains:
            sums = head_ops.pair_sums(tensors, *common, saved, plan.divergence.name, plan.skew)
            saved = partition.saved_of_sums(saved, sums, plan.group)
        ctx.plan, ctx.heads = plan, heads
        ctx.save_for_backward(saved, *tensors)
        return result_like(tensors[0], tensors[0], saved[:, 2])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved, *tensors = ctx.saved_tensors
        plan, heads, wanted = ctx.plan, ctx.heads, list(ctx.needs_input_grad[2:])
        grads = head_ops.pair_gradients(
            tensors, *heads.arguments(), plan.backend, saved, upstream, plan.divergence.name, plan.skew, wanted
        )
        for i in (0, 3):
            if wanted[i]:
                shards.summed(grads[i], plan.group)
        return None, None, *(grad if want else None for grad, want in zip(grads, wanted, strict=True))


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    entropy: bool = False,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    precision: Precision = "float32",
    workspace: int | None = None,
    group: Any = None,
    vocab_start: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``token_logprobs`` from hidden states and an LM head, whose logits are made a block at a time.

    See ``linear_token_kl`` for how the logits are made, what is held, and ``precision``. Differentiable once
    in hidden, weight and bias, under any upstream gradient (8 N·H·V flops in all).

    Args:
        hidden: (…, hidden), before the LM head.
        weight: (vocab, hidden); with a group, this rank's rows.
        tokens: (…), ids in the whole vocabulary.
        bias: (vocab,).
        entropy: return (logprobs, entropy) instead of logprobs.
        temperature, group, vocab_start: as for ``token_logprobs``.
        scale, softcap, precision, workspace, backend: as for ``linear_token_kl``.

    Returns:
        (…), in nats, float32 (float64 for float64 inputs).

    Raises:
        ShapeError: hidden states, head and tokens that do not fit together.
        InputError: a token outside the vocabulary (on a CPU), or an option that cannot be right.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> kb.vocab.linear_token_logprobs(torch.ones(1, 2), torch.zeros(4, 2), torch.tensor([2]))
        tensor([-1.3863])
    """
    where, heads, flat = token_arguments(
        hidden, weight, tokens, bias, temperature, scale, softcap, precision, workspace, group, vocab_start, backend
    )
    logprobs, entropies = (
        x.view(tokens.shape) for x in differentiable(_LinearTokens, where, heads, tokens.reshape(-1), *flat)
    )
    return (logprobs, entropies) if entropy else logprobs


class _LinearTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, where: Where, heads: Heads, tokens: Tensor, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        tensors = [x for x in inputs if x is not None]
        own = head_ops.token_statistics(tensors, *heads.arguments(), where.backend, tokens, where.start, where.size)
        whole = shards.joined(own, partition.join_tokens, where.group)
        ctx.where, ctx.heads = where, heads
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens, whole, *tensors)
        return token_results(tensors[0], tokens, whole, where)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, saved, *tensors = ctx.saved_tensors
        where, heads, wanted = ctx.where, ctx.heads, list(ctx.needs_input_grad[3:])
        g1, g2 = (torch.zeros_like(saved[..., 0]) if g is None else g for g in upstream)
        grads = head_ops.token_gradients(
            tensors, *heads.arguments(), where.backend, tokens, where.start, saved[:, :2], g1, g2, wanted
        )
        if wanted[0]:
            shards.summed(grads[0], where.group)
        return None, None, None, *(grad if want else None for grad, want in zip(grads, wanted, strict=True))


def token_arguments(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
    precision: str,
    workspace: int | None,
    group: Any,
    vocab_start: int | None,
    backend: str | None,
) -> tuple[Where, Heads, list[Tensor | None]]:
    """Checked arguments of the log-probs of one head, flattened to (tokens, hidden)."""
    check_head(hidden, weight, bias, "")
    check_integers(tokens)
    if tokens.shape != hidden.shape[:-1]:
        raise ShapeError(
            f"tokens has shape {tuple(tokens.shape)}, but hidden {tuple(hidden.shape)} needs one token a row"
        )
    start, size = shards.columns(len(weight), group, vocab_start)
    where = Where(start, size, 1.0, choose(backend, hidden.device), group)
    heads = Heads((bias is not None,), head_numbers(scale, softcap, temperature), rounds(precision), held(workspace))
    return where, heads, flattened(hidden, weight, bias)


def flattened(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
    """The hidden states as a matrix, (tokens, hidden), with their head."""
    return [hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1]), weight, bias]


def held(workspace: int | None) -> int:
    """Bytes of logits held at a time; 0 is the device's default.

    Raises:
        InputError: no positive number of bytes.
    """
    if workspace is not None and workspace <= 0:
        raise InputError(f"workspace={workspace} came, but it is a number of bytes above 0, or None")
    return workspace or 0


def head_numbers(scale: float, softcap: float | None, temperature: float) -> tuple[float, float]:
    """Scale and cap of c·tanh(s·x/c)/T, which is the head of scale s/T and cap c/T."""
    if not temperature > 0:
        raise InputError(f"temperature={temperature:g} came, but it must be above 0")
    if softcap is not None and not softcap > 0:
        raise InputError(f"softcap={softcap:g} came, but it must be above 0; None leaves the logits uncapped")
    return scale / temperature, (softcap or 0.0) / temperature


def rounds(precision: str) -> bool:
    """Whether a precision rounds the logits."""
    if precision not in ("float32", "input"):
        raise InputError(f"precision {precision!r} came, but it is 'float32' or 'input'")
    return precision == "input"


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, prefix: str) -> None:
    """A head whose parts fit together.

    Raises:
        ShapeError: they do not.
    """
    check_floating(**{f"{prefix}hidden": hidden, f"{prefix}weight": weight, f"{prefix}bias": bias})
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:]:
        raise ShapeError(
            f"{prefix}hidden has shape {tuple(hidden.shape)} and {prefix}weight {tuple(weight.shape)}, "
            "but (…, hidden) and (vocab, hidden) are needed"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"{prefix}bias has shape {tuple(bias.shape)}, but the head has {len(weight)} words")


def check_pair(hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor) -> None:
    """Two heads over the same tokens and the same vocabulary.

    Raises:
        ShapeError: they are not.
    """
    if hidden.shape[:-1] != ref_hidden.shape[:-1]:
        raise ShapeError(
            f"hidden has shape {tuple(hidden.shape)} and ref_hidden {tuple(ref_hidden.shape)}, "
            "but both must hold the same tokens"
        )
    if len(weight) != len(ref_weight):
        raise ShapeError(f"weight has {len(weight)} words and ref_weight {len(ref_weight)}: cut both to one vocabulary")
