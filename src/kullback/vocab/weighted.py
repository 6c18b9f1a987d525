"""Weighted sums over tokens, their weights known beforehand: the gradient is made in the forward pass.

The logits are made once instead of twice (8 N·H·V flops for a KL instead of 12), whole rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from kullback.errors import ShapeError
from kullback.vocab import shards, weighted_ops
from kullback.vocab.linear import (
    Heads,
    Precision,
    check_head,
    check_pair,
    flattened,
    head_numbers,
    held,
    rounds,
    token_arguments,
)
from kullback.vocab.logits import Direction, Plan, Where, plan, result_like, token_results
from kullback.vocab.ops import differentiable, refuse


def linear_weighted_kl(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    token_weights: Tensor,
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
) -> tuple[Tensor, Tensor]:
    """Σ_t w_t D_t with its gradient, D_t being ``linear_token_kl``, when the weights w_t are known beforehand.

    The gradient is made in the forward pass, where the logits are at hand: two thirds of the matrix products
    of ``linear_token_kl``. The weights of a masked mean are ``mask / mask.sum()``. A token of weight 0 counts
    nothing, also where its divergence is inf. Where the tokens do not fit one workspace, the gradient to
    a head in half precision is added up beside the result: in one byte an entry on a CPU, which makes 24 bits
    with the result's own, and in float32 elsewhere.

    Args:
        hidden, weight, ref_hidden, ref_weight: as for ``linear_token_kl``.
        token_weights: w, (…), the shape of the tokens.
        bias, ref_bias, direction, skew, temperature, scale, softcap, precision, group, backend: likewise.
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
    check_head(hidden, weight, bias, "")
    check_head(ref_hidden, ref_weight, ref_bias, "ref_")
    check_pair(hidden, weight, ref_hidden, ref_weight)
    check_weights(token_weights, hidden, "token_weights")
    chosen, swapped = plan(direction, skew, 1.0, backend, group, hidden.device)
    numbers = head_numbers(scale, softcap, temperature)
    q, p = (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias)
    first, second = (p, q) if swapped else (q, p)
    heads = Heads((first[2] is not None, second[2] is not None), numbers * 2, rounds(precision), held(workspace))
    flat = [*flattened(*first), *flattened(*second)]
    total, values = differentiable(_WeightedPair, chosen, heads, token_weights.reshape(-1), *flat)
    return total, values.view(hidden.shape[:-1])


class _WeightedPair(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, heads: Heads, weights: Tensor, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        tensors = [x for x in inputs if x is not None]
        ctx.plan, ctx.heads = plan, heads
        values, *ctx.grads = _pair(plan, heads, weights, tensors, ctx.needs_input_grad[3:])
        ctx.save_for_backward(values, weights, *tensors)
        shown = result_like(tensors[0], tensors[0], values)
        ctx.mark_non_differentiable(shown)
        return weighted_sum(weights, shown), shown

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        values, weights, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        grads = ctx.grads or _pair(ctx.plan, ctx.heads, weights, tensors, wanted)[1:]
        ctx.grads = None
        of_weights = upstream * values if ctx.needs_input_grad[2] else None
        return None, None, of_weights, *scaled(grads, upstream, wanted, tensors)


def _pair(plan: Plan, heads: Heads, weights: Tensor, tensors: list[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    kind = plan.divergence.name, plan.skew, shards.name_of(plan.group)
    made: list[Tensor] = weighted_ops.weighted_pair(
        tensors, *heads.arguments(), plan.backend, weights, *kind, list(wanted)
    )
    for i in (0, 3):
        if wanted[i]:
            shards.summed(made[1 + i], plan.group)
    return made


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
    precision: Precision = "float32",
    workspace: int | None = None,
    group: Any = None,
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
    where, heads, flat = token_arguments(
        hidden, weight, tokens, bias, temperature, scale, softcap, precision, workspace, group, vocab_start, backend
    )
    both = token_weights.reshape(-1), entropy_weights.reshape(-1)
    total, *shown = differentiable(_WeightedTokens, where, heads, tokens.reshape(-1), *both, *flat)
    logprobs, entropies = (x.view(tokens.shape) for x in shown)
    return total, logprobs, entropies


class _WeightedTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        where: Where,
        heads: Heads,
        tokens: Tensor,
        weights: Tensor,
        entropy_weights: Tensor,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tensors = [x for x in inputs if x is not None]
        given = tokens, weights, entropy_weights
        ctx.where, ctx.heads = where, heads
        saved, *ctx.grads = _tokens(where, heads, *given, tensors, ctx.needs_input_grad[5:])
        logprobs, entropies = token_results(tensors[0], tokens, saved, where)
        ctx.save_for_backward(logprobs, entropies, *given, *tensors)
        ctx.mark_non_differentiable(logprobs, entropies)
        return weighted_sum(weights, logprobs) + weighted_sum(entropy_weights, entropies), logprobs, entropies

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        logprobs, entropies, tokens, weights, entropy_weights, *tensors = ctx.saved_tensors
        given, wanted = (tokens, weights, entropy_weights), ctx.needs_input_grad[5:]
        grads = ctx.grads or _tokens(ctx.where, ctx.heads, *given, tensors, wanted)[1:]
        ctx.grads = None
        of_weights = upstream * logprobs if ctx.needs_input_grad[3] else None
        of_entropy_weights = upstream * entropies if ctx.needs_input_grad[4] else None
        return None, None, None, of_weights, of_entropy_weights, *scaled(grads, upstream, wanted, tensors)


def _tokens(
    where: Where,
    heads: Heads,
    tokens: Tensor,
    weights: Tensor,
    entropy_weights: Tensor,
    tensors: list[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor]:
    place = tokens, where.start, where.size, weights, entropy_weights, shards.name_of(where.group)
    made: list[Tensor] = weighted_ops.weighted_tokens(tensors, *heads.arguments(), where.backend, *place, list(wanted))
    if wanted[0]:
        shards.summed(made[1], where.group)
    return made


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Σ w·x, where a weight of 0 silences an infinite x."""
    return torch.where(weights != 0, weights * values, 0.0).sum()


def scaled(grads: list[Tensor], upstream: Tensor, wanted: Sequence[bool], tensors: list[Tensor]) -> list[Tensor | None]:
    """The gradients that the forward pass made times the upstream one, in place: they are handed out once, and
    a second backward pass makes them again.
    """
    upstream = upstream.detach()
    found = [grad.mul_(upstream) if want else None for grad, want in zip(grads, wanted, strict=True)]
    if torch.is_grad_enabled():
        return [x if x is None else differentiable(_Last, x, *tensors) for x in found]
    return found


class _Last(torch.autograd.Function):
    """The identity, whose own derivative is refused."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *_: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        refuse()


def check_weights(weights: Tensor, hidden: Tensor, name: str) -> None:
    """One weight a token.

    Raises:
        ShapeError: there is not.
    """
    if weights.shape != hidden.shape[:-1]:
        raise ShapeError(f"{name} has shape {tuple(weights.shape)}, but hidden {tuple(hidden.shape)} needs one a token")
