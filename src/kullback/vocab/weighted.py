"""Weighted sums over tokens, their weights known beforehand: the gradient is made in the forward pass.

The logits are made once instead of twice (8 N·H·V flops for a KL instead of 12), whole rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol

import torch
from torch import Tensor

from kullback.errors import ShapeError
from kullback.vocab import shards, weighted_ops
from kullback.vocab.formulas import Divergence
from kullback.vocab.heads import HeadPlan
from kullback.vocab.linear import Precision, check_heads, check_token_head, difference_of, flat_inputs, head_plan
from kullback.vocab.logits import TokenDirection, named_divergence, result_like, token_results
from kullback.vocab.ops import Context, differentiable, refuse
from kullback.vocab.shards import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def linear_weighted_kl(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    token_weights: Tensor,
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
) -> tuple[Tensor, Tensor]:
    """Σ_t w_t D_t with its gradient, D_t being the KL(q‖p) of ``linear_token_kl``, when the w_t are known beforehand.

    The gradient is made in the forward pass, where the logits are at hand: two thirds of the matrix products
    of ``linear_token_kl``. The weights of a masked mean are ``mask / mask.sum()``. A token of weight 0 counts
    nothing, also where its divergence is inf. Where the tokens do not fit one workspace, the gradient to
    a head in half precision is added up beside the result: in one byte an entry on a CPU, which makes 24 bits
    with the result's own, and in float32 elsewhere.

    Args:
        hidden, weight, ref_hidden, ref_weight: as for ``linear_token_kl``.
        token_weights: w, (…), the shape of the tokens.
        bias, ref_bias, direction, skew, temperature, scale, softcap: likewise.
        weight_difference, precision, group, backend: likewise.
        workspace: bytes of logits held at a time; at least one token's whole rows are held.

    Returns:
        The sum, a scalar in nats, and the divergences D, (…), through which no gradient flows.

    Raises:
        ShapeError: inputs that do not fit together.
        InputError: an option that cannot be right.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> hidden, weight, ref_weight = torch.eye(2), torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> total, token_kl = kb.vocab.linear_weighted_kl(hidden, weight, hidden, ref_weight, torch.tensor([2.0, 1.0]))
        >>> total, token_kl
        (tensor(0.2402), tensor([0.1201, 0.0000]))
    """
    q, p = (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias)
    check_heads(q, p)
    check_weights(token_weights, hidden, "token_weights")
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
    tensors = token_weights.reshape(-1), *flat_inputs(*first), *flat_inputs(*second), weight_difference
    total, values = differentiable(_WeightedPair, divergence, plan, group, *tensors)
    return total, values.view(hidden.shape[:-1])


class _PairContext(Context, Protocol):
    divergence: Divergence
    plan: HeadPlan
    group: ProcessGroup | None
    grads: list[Tensor] | None


class _WeightedPair(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _PairContext,
        divergence: Divergence,
        plan: HeadPlan,
        group: ProcessGroup | None,
        weights: Tensor,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        tensors = [x for x in inputs if x is not None]
        ctx.divergence, ctx.plan, ctx.group = divergence, plan, group
        values, *ctx.grads = _pair(ctx, weights, tensors)
        ctx.save_for_backward(values, weights, *tensors)
        results = result_like(tensors[0], tensors[0], values)
        ctx.mark_non_differentiable(results)
        return weighted_sum(weights, results), results

    @staticmethod
    def backward(ctx: _PairContext, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        values, weights, *tensors = ctx.saved_tensors
        grads = ctx.grads or _pair(ctx, weights, tensors)[1:]
        ctx.grads = None
        of_weights = upstream * values if ctx.needs_input_grad[3] else None
        scaled = scaled_gradients(grads, upstream, ctx.needs_input_grad[4:10], tensors)
        return None, None, None, of_weights, *scaled, None


def _pair(ctx: _PairContext, weights: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The divergences, and the gradients of their sum under these weights."""
    wanted = ctx.needs_input_grad[4:10]
    values_and_grads = weighted_ops.weighted_pair(
        tensors,
        ctx.plan,
        weights,
        divergence=ctx.divergence.name,
        skew=ctx.divergence.skew,
        group_name=shards.group_name(ctx.group),
        wanted=list(wanted),
    )
    for i in (0, 3):
        if wanted[i]:
            shards.sum_over_ranks(values_and_grads[1 + i], ctx.group)
    return values_and_grads


def linear_weighted_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    token_weights: Tensor,
    *,
    entropy_weights: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    precision: Precision | None = None,
    workspace: int | None = None,
    group: ProcessGroup | None = None,
    vocab_start: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_t (w_t log q(y_t) + v_t H(q_t)) with its gradient, when the weights w and v are known beforehand.

    Cross entropy has the weights −1/n; a policy gradient has its advantages. The gradient is made in the
    forward pass, where the logits are at hand: three quarters of the matrix products of
    ``linear_token_logprobs``. See ``linear_weighted_kl`` for what is held.

    Args:
        hidden, weight, tokens, bias: as for ``linear_token_logprobs``.
        token_weights: w, (…), the shape of tokens.
        entropy_weights: v, likewise; None is 0.
        temperature, scale, softcap, precision, workspace, group, vocab_start, backend: likewise.

    Returns:
        The sum, a scalar in nats; the log-probs and the entropies, (…), through which no gradient flows.

    Raises:
        ShapeError: inputs that do not fit together.
        InputError: a token outside the vocabulary (on a CPU), or an option that cannot be right.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> hidden, head, tokens = torch.ones(2, 2), torch.zeros(4, 2), torch.tensor([2, 1])
        >>> kb.vocab.linear_weighted_logprobs(hidden, head, tokens, torch.tensor([-0.5, -0.5]))[0]
        tensor(1.3863)
    """
    check_weights(token_weights, hidden, "token_weights")
    entropy_weights = torch.zeros_like(token_weights) if entropy_weights is None else entropy_weights
    check_weights(entropy_weights, hidden, "entropy_weights")
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
    given = (x.reshape(-1) for x in (tokens, token_weights, entropy_weights))
    total, *each = differentiable(_WeightedTokens, shard, plan, *given, *flat_inputs(*head))
    logprobs, entropies = (x.view(tokens.shape) for x in each)
    return total, logprobs, entropies


class _TokenContext(Context, Protocol):
    shard: Shard
    plan: HeadPlan
    grads: list[Tensor] | None


class _WeightedTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _TokenContext, shard: Shard, plan: HeadPlan, *inputs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, weights, entropy_weights, *tensors = (x for x in inputs if x is not None)
        given = tokens, weights, entropy_weights
        ctx.shard, ctx.plan = shard, plan
        saved, *ctx.grads = _tokens(ctx, given, tensors)
        logprobs, entropies = token_results(tensors[0], tokens, saved, shard.size)
        ctx.save_for_backward(logprobs, entropies, *given, *tensors)
        ctx.mark_non_differentiable(logprobs, entropies)
        return weighted_sum(weights, logprobs) + weighted_sum(entropy_weights, entropies), logprobs, entropies

    @staticmethod
    def backward(ctx: _TokenContext, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        logprobs, entropies, tokens, weights, entropy_weights, *tensors = ctx.saved_tensors
        grads = ctx.grads or _tokens(ctx, (tokens, weights, entropy_weights), tensors)[1:]
        ctx.grads = None
        needed = ctx.needs_input_grad
        of_weights = upstream * logprobs if needed[3] else None
        of_entropy_weights = upstream * entropies if needed[4] else None
        scaled = scaled_gradients(grads, upstream, needed[5:], tensors)
        return None, None, None, of_weights, of_entropy_weights, *scaled


def _tokens(ctx: _TokenContext, given: tuple[Tensor, Tensor, Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Statistics of tokens, and the gradients of the sum under their weights and the entropies' weights."""
    wanted = list(ctx.needs_input_grad[5:])
    saved_and_grads = weighted_ops.weighted_tokens(
        tensors,
        ctx.plan,
        *given,
        start=ctx.shard.start,
        size=ctx.shard.size,
        group_name=shards.group_name(ctx.shard.group),
        wanted=wanted,
    )
    if wanted[0]:
        shards.sum_over_ranks(saved_and_grads[1], ctx.shard.group)
    return saved_and_grads


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Σ w·x, where a weight of 0 silences an infinite x."""
    return torch.where(weights != 0, weights * values, 0.0).sum()


def scaled_gradients(
    grads: list[Tensor], upstream: Tensor, wanted: Sequence[bool], tensors: list[Tensor]
) -> list[Tensor | None]:
    """The gradients that the forward pass made times the upstream one."""
    # In place, since they are as large as the head (a copy of 131,072 × 1,024 takes 268 MB in bfloat16): they are
    # handed out once, and a second backward pass makes them again.
    upstream = upstream.detach()
    scaled = [grad.mul_(upstream) if want else None for grad, want in zip(grads, wanted, strict=True)]
    if torch.is_grad_enabled():
        return [x if x is None else differentiable(_Last, x, *tensors) for x in scaled]
    return scaled


class _Last(torch.autograd.Function):
    """The identity, whose own derivative is refused."""

    @staticmethod
    def forward(ctx: Context, grad: Tensor, *_: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Context, *_: Tensor) -> NoReturn:
        refuse()


def check_weights(weights: Tensor, hidden: Tensor, name: str) -> None:
    """One weight a token.

    Raises:
        ShapeError: there is not.
    """
    if weights.shape != hidden.shape[:-1]:
        raise ShapeError(f"{name} has shape {tuple(weights.shape)}, but hidden {tuple(hidden.shape)} needs one a token")
