"""From hidden states and LM heads: the same quantities, without ever holding tokens × vocabulary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from kullback.errors import InputError, ShapeError, shown
from kullback.vocab import head_ops, partition, shards
from kullback.vocab.backends import backend_for
from kullback.vocab.formulas import Divergence
from kullback.vocab.heads import HeadPlan
from kullback.vocab.logits import (
    TokenDirection,
    check_floating,
    check_integers,
    check_temperature,
    named_divergence,
    result_like,
    token_results,
)
from kullback.vocab.ops import Context, differentiable
from kullback.vocab.products import HALVES, half_is_fast
from kullback.vocab.shards import Shard
from kullback.vocab.shared import same_head

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Precision = Literal["float32", "mixed", "bfloat16"]
"""Of the products that make logits: see ``linear_token_kl``."""
PRECISIONS = ("float32", "mixed", "bfloat16")
HeadInputs = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states, weight and bias."""


def linear_token_kl(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    *,
    bias: Tensor | None = None,
    ref_bias: Tensor | None = None,
    direction: TokenDirection = "reverse",
    skew: float = 1.0,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    weight_difference: Tensor | None = None,
    precision: Precision | None = None,
    workspace: int | None = None,
    group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor:
    """The exact KL(q‖p), or what ``direction`` names, at every token, from hidden states and LM heads.

    It is ``token_kl`` of logits that are made a block at a time and forgotten: c·tanh(s(h·Wᵀ + bias)/c)/T with
    scale s and softcap c. Any upstream gradient may come: the backward pass makes the logits again (12 N·H·V flops
    in all, against the 8 of ``linear_weighted_kl``, whose weights are known beforehand). Differentiable once in all
    six tensors. Memory beyond the gradients: one workspace and 40 bytes a token. The divergences to a mixture take
    two sweeps over the logits forward.

    **One head.** Where both models have it (the same tensor, or equal numbers, which is found out once), the products
    are h_q·Wᵀ and (h_q − h_p)·Wᵀ, not h_p·Wᵀ: as many, and rounding is in proportion to the difference of the logits
    instead of the logits. At 4e-5 nats, float32 then errs by 1e-6 of a token's KL instead of 4e-4, and bfloat16
    by 0.4% of the mean instead of +2,900%. Caps, scales and biases are kept exactly; where two biases differ by more
    than 100 in a word, as where one model alone bans it, each model has its product as before. Two heads that differ
    little have the same with one product more, if ``weight_difference`` is given: (h_q − h_p)·W_qᵀ + h_p·(W_q − W_p)ᵀ.

    **Precision.** ``"float32"``: factors as they come, and nothing is rounded to half precision. ``"mixed"``: the
    difference by bfloat16 factors, the policy's logits as in float32: the mean within 0.1%, a token within 1%.
    ``"bfloat16"``: both by bfloat16 factors: the mean within 0.5%, a token within 13%. Without a difference
    ``"mixed"`` is float32, and ``"bfloat16"`` adds about 2e-4 nats to every KL, more than most of RL's. None is
    ``"mixed"`` for one head and inputs in half precision where that is fast (CUDA, or a CPU that multiplies in
    bfloat16), else ``"float32"``.

    Args:
        hidden: (…, hidden), of the policy, before its LM head.
        weight: (vocab, hidden), of the policy's LM head.
        ref_hidden: (…, ref_hidden), of the reference; the sizes of the hidden states may differ.
        ref_weight: (vocab, ref_hidden).
        bias, ref_bias: (vocab,), of the heads.
        direction, skew, temperature: as for ``token_kl``.
        scale: of both models' logits, before the cap.
        softcap: of both models' logits (Gemma 2 has 30); None leaves them uncapped.
        weight_difference: ``weight - ref_weight``, made once, for difference products with two heads; it takes no
            gradient, and must be made again when a head changes.
        precision: ``"float32"``, ``"mixed"`` or ``"bfloat16"``; see above.
        workspace: bytes of logits held at a time; None is 96 MiB on a CPU and 1 GiB elsewhere.
        group: the ``torch.distributed`` group over which the heads' vocabulary is split; the hidden states
            are the same on every rank, and their gradients are summed over the group.
        backend: as for ``token_kl``.

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
    q, p = (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias)
    check_heads(q, p)
    divergence, swapped = named_divergence(direction, skew)
    first, second = (p, q) if swapped else (q, p)
    plan = head_plan(
        first,
        second,
        temperature=temperature,
        scale=scale,
        softcap=softcap,
        precision=precision,
        workspace=workspace,
        backend=backend,
        difference=difference_of(q, p, weight_difference, swapped),
    )
    tensors = *flat_inputs(*first), *flat_inputs(*second), weight_difference
    value: Tensor = differentiable(_LinearPair, divergence, plan, group, *tensors)
    return value.view(hidden.shape[:-1])


class _PairContext(Context, Protocol):
    divergence: Divergence
    plan: HeadPlan
    group: ProcessGroup | None


class _LinearPair(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _PairContext, divergence: Divergence, plan: HeadPlan, group: ProcessGroup | None, *inputs: Tensor | None
    ) -> Tensor:
        tensors = [x for x in inputs if x is not None]
        saved = partition.saved_of_pairs(head_ops.pair_statistics(tensors, plan), divergence, group)
        if not divergence.chains:
            sums = head_ops.pair_sums(tensors, plan, saved, divergence=divergence.name, skew=divergence.skew)
            saved = partition.saved_of_sums(saved, sums, group)
        ctx.divergence, ctx.plan, ctx.group = divergence, plan, group
        ctx.save_for_backward(saved, *tensors)
        return result_like(tensors[0], tensors[0], saved[:, 2])

    @staticmethod
    def backward(ctx: _PairContext, upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved, *tensors = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[3:9])
        grads = head_ops.pair_gradients(
            tensors,
            ctx.plan,
            saved,
            upstream,
            divergence=ctx.divergence.name,
            skew=ctx.divergence.skew,
            wanted=wanted,
        )
        for i in (0, 3):
            if wanted[i]:
                shards.sum_over_ranks(grads[i], ctx.group)
        return None, None, None, *(grad if want else None for grad, want in zip(grads, wanted, strict=True)), None


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
    precision: Precision | None = None,
    workspace: int | None = None,
    group: ProcessGroup | None = None,
    vocab_start: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """log q of given tokens, and H(q), from hidden states and an LM head: ``token_logprobs``, no logits held.

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
    head = hidden, weight, bias
    check_token_head(head, tokens)
    shard = shards.shard(len(weight), group, vocab_start)
    plan = head_plan(
        head,
        temperature=temperature,
        scale=scale,
        softcap=softcap,
        precision=precision,
        workspace=workspace,
        backend=backend,
    )
    results = differentiable(_LinearTokens, shard, plan, tokens.reshape(-1), *flat_inputs(*head))
    logprobs, entropies = (x.view(tokens.shape) for x in results)
    return (logprobs, entropies) if entropy else logprobs


class _TokenContext(Context, Protocol):
    shard: Shard
    plan: HeadPlan


class _LinearTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _TokenContext, shard: Shard, plan: HeadPlan, tokens: Tensor, *inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        tensors = [x for x in inputs if x is not None]
        own = head_ops.token_statistics(tensors, plan, tokens, start=shard.start, size=shard.size)
        whole = shards.whole_statistics(own, partition.join_tokens, shard.group)
        ctx.shard, ctx.plan = shard, plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens, whole, *tensors)
        return token_results(tensors[0], tokens, whole, shard.size)

    @staticmethod
    def backward(ctx: _TokenContext, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, saved, *tensors = ctx.saved_tensors
        shard, wanted = ctx.shard, list(ctx.needs_input_grad[3:])
        both = torch.stack([torch.zeros_like(saved[..., 0]) if g is None else g.to(saved.dtype) for g in upstream])
        grads = head_ops.token_gradients(
            tensors, ctx.plan, tokens, saved[:, :2], both, start=shard.start, wanted=wanted
        )
        if wanted[0]:
            shards.sum_over_ranks(grads[0], shard.group)
        return None, None, None, *(grad if want else None for grad, want in zip(grads, wanted, strict=True))


def head_plan(
    *heads: HeadInputs,
    temperature: float,
    scale: float,
    softcap: float | None,
    precision: str | None,
    workspace: int | None,
    backend: str | None,
    difference: int = 0,
) -> HeadPlan:
    """How logits are made of these heads; the options are those of every fused form.

    Args:
        heads: of one model or two.
        temperature, scale, softcap, precision, workspace, backend: as the user gave them.
        difference: as ``difference_of`` has it.

    Raises:
        InputError: an option that cannot be right.
        MissingPackageError: Triton is asked for and not installed.
    """
    hidden, weight, _ = heads[0]
    return HeadPlan(
        biased=tuple(bias is not None for *_, bias in heads),
        numbers=(scale_and_cap(scale, softcap, temperature),) * len(heads),
        precision=named_precision(precision, hidden, difference),
        difference=difference,
        workspace=workspace_bytes(workspace),
        backend=backend_for(backend, hidden.device, hidden.shape[:-1].numel() * len(weight)),
    )


def flat_inputs(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> HeadInputs:
    """The hidden states as a matrix, (tokens, hidden), with their head."""
    return hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1]), weight, bias


def workspace_bytes(workspace: int | None) -> int:
    """Bytes of logits held at a time; 0 is the device's default.

    Raises:
        InputError: no positive number of bytes.
    """
    if workspace is not None and workspace <= 0:
        raise InputError(f"workspace={workspace} came, but it is a number of bytes above 0, or None")
    return workspace or 0


def scale_and_cap(scale: float, softcap: float | None, temperature: float) -> tuple[float, float]:
    """Of c·tanh(s·x/c)/T, which is the head of scale s/T and cap c/T; a cap of 0 is none.

    Raises:
        InputError: a temperature or a cap that is not above 0.
    """
    check_temperature(temperature)
    if softcap is not None and not softcap > 0:
        raise InputError(f"softcap={softcap:g} came, but it must be above 0; None leaves the logits uncapped")
    return scale / temperature, (softcap or 0.0) / temperature


def named_precision(precision: str | None, hidden: Tensor, difference: int) -> str:
    """The precision that was asked for, or the best that costs nothing.

    Raises:
        InputError: there is no such precision.
    """
    if precision is None:
        fast = hidden.dtype in HALVES and (hidden.is_cuda or half_is_fast())
        return "mixed" if difference and fast else "float32"
    if precision not in PRECISIONS:
        raise InputError(f"precision {shown(precision)} came, but it is {', '.join(map(repr, PRECISIONS))} or None")
    return "float32" if hidden.dtype == torch.float64 else precision


def difference_of(q: HeadInputs, p: HeadInputs, weight_difference: Tensor | None, swapped: bool) -> int:
    """Whether difference products are made: 0 not, else 1, or −1 where p has the first role.

    Raises:
        ShapeError: a difference of weights that does not fit them, or hidden states of two sizes.
    """
    (hidden, weight, _), (ref_hidden, ref_weight, _) = q, p
    if weight_difference is not None:
        check_floating(weight_difference=weight_difference)
        if not weight.shape == ref_weight.shape == weight_difference.shape:
            raise ShapeError(
                f"weight_difference has shape {tuple(weight_difference.shape)}, weight {tuple(weight.shape)} and "
                f"ref_weight {tuple(ref_weight.shape)}, but it is weight - ref_weight: all three must be alike"
            )
    elif hidden.shape != ref_hidden.shape or not same_head(weight, ref_weight):
        return 0
    return -1 if swapped else 1


def check_token_head(head: HeadInputs, tokens: Tensor) -> None:
    """A head whose parts fit together, and one token for each of its hidden states.

    Raises:
        ShapeError: they do not fit.
        InputError: the ids of tokens are no integers.
    """
    check_head(head, "")
    check_integers(tokens)
    if tokens.shape != head[0].shape[:-1]:
        raise ShapeError(
            f"tokens has shape {tuple(tokens.shape)}, but hidden {tuple(head[0].shape)} needs one token a row"
        )


def check_head(head: HeadInputs, prefix: str) -> None:
    """A head whose parts fit together.

    Raises:
        ShapeError: they do not.
    """
    hidden, weight, bias = head
    check_floating(**{f"{prefix}hidden": hidden, f"{prefix}weight": weight, f"{prefix}bias": bias})
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:]:
        raise ShapeError(
            f"{prefix}hidden has shape {tuple(hidden.shape)} and {prefix}weight {tuple(weight.shape)}, "
            "but (…, hidden) and (vocab, hidden) are needed"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"{prefix}bias has shape {tuple(bias.shape)}, but the head has {len(weight)} words")


def check_heads(head: HeadInputs, reference: HeadInputs) -> None:
    """Two heads whose parts fit together, over the same tokens and the same vocabulary.

    Raises:
        ShapeError: they do not.
    """
    check_head(head, "")
    check_head(reference, "ref_")
    (hidden, weight, _), (ref_hidden, ref_weight, _) = head, reference
    if hidden.shape[:-1] != ref_hidden.shape[:-1]:
        raise ShapeError(
            f"hidden has shape {tuple(hidden.shape)} and ref_hidden {tuple(ref_hidden.shape)}, "
            "but both must hold the same tokens"
        )
    if len(weight) != len(ref_weight):
        raise ShapeError(f"weight has {len(weight)} words and ref_weight {len(ref_weight)}: cut both to one vocabulary")
