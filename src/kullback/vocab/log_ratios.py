"""Log-ratios of drawn tokens from hidden states and LM heads, with all that the same pass tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from kullback.vocab import log_ratio_ops, shards
from kullback.vocab.heads import HeadPlan
from kullback.vocab.linear import Precision, check_heads, check_token_head, difference_of, flat_inputs, head_plan
from kullback.vocab.logits import result_like
from kullback.vocab.ops import Context, differentiable
from kullback.vocab.shards import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class LogRatios(NamedTuple):
    """What one pass over two heads tells of every drawn token, each (…), in nats.

    Attributes:
        log_ratio: ℓ = log q(y) − log p(y) of the token y.
        logprobs: log q(y).
        ref_logprobs: log p(y).
        token_kl: KL(q‖p) of the two next-token distributions.
        entropy: H(q).

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> hidden, weight, tokens = torch.ones(2, 3), torch.eye(4, 3), torch.tensor([0, 3])
        >>> found = kb.vocab.linear_log_ratio(hidden, weight, 2 * hidden, weight, tokens)
        >>> found.log_ratio.shape, bool(torch.allclose(found.log_ratio, found.logprobs - found.ref_logprobs))
        (torch.Size([2]), True)
    """

    log_ratio: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    token_kl: Tensor
    entropy: Tensor


def linear_log_ratio(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    ref_bias: Tensor | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    weight_difference: Tensor | None = None,
    precision: Precision | None = None,
    workspace: int | None = None,
    group: ProcessGroup | None = None,
    vocab_start: int | None = None,
    backend: str | None = None,
) -> LogRatios:
    """ℓ = log q(y) − log p(y) of given tokens, with both log-probs, the KL(q‖p) and the entropy of q.

    With one head, ℓ = d_y − (Σ_v q d − KL), d = (h_q − h_p)·Wᵀ: its rounding is in proportion to the distance of the
    models, where the difference of two log-probs from bfloat16 logits is mostly rounding (off by 295% at 1e-6 nats a
    token and by 57% at 1e-3, against 0.9% and 1.0%). See ``linear_token_kl`` for one head, ``precision`` and what is
    held. Differentiable once in all six tensors, through every field (12 N·H·V flops in all).

    Args:
        hidden, weight, ref_hidden, ref_weight: as for ``linear_token_kl``.
        tokens: (…), ids in the whole vocabulary.
        bias, ref_bias, scale, softcap, weight_difference, precision, workspace, backend: as for ``linear_token_kl``.
        temperature, group, vocab_start: as for ``token_logprobs``.

    Returns:
        ``LogRatios``, float32 (float64 for float64 inputs).

    Raises:
        ShapeError: hidden states, heads and tokens that do not fit together.
        InputError: a token outside the vocabulary (on a CPU), or an option that cannot be right.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> hidden, ref_hidden, weight = torch.ones(1, 2), torch.zeros(1, 2), torch.eye(2) * torch.tensor([1.0, 3.0])
        >>> kb.vocab.linear_log_ratio(hidden, weight, ref_hidden, weight, torch.tensor([1])).log_ratio
        tensor([0.5662])
    """
    q, p = (hidden, weight, bias), (ref_hidden, ref_weight, ref_bias)
    check_heads(q, p)
    check_token_head(q, tokens)
    shard = shards.shard(len(weight), group, vocab_start)
    plan = head_plan(
        q,
        p,
        temperature=temperature,
        scale=scale,
        softcap=softcap,
        precision=precision,
        workspace=workspace,
        backend=backend,
        difference=difference_of(q, p, weight_difference, swapped=False),
    )
    tensors = *flat_inputs(*q), *flat_inputs(*p), weight_difference
    found = differentiable(_LogRatios, shard, plan, tokens.reshape(-1), *tensors)
    return LogRatios(*(x.view(tokens.shape) for x in found))


class _Context(Context, Protocol):
    shard: Shard
    plan: HeadPlan


class _LogRatios(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, shard: Shard, plan: HeadPlan, tokens: Tensor, *inputs: Tensor | None
    ) -> tuple[Tensor, ...]:
        tensors = [x for x in inputs if x is not None]
        own = log_ratio_ops.log_ratio_statistics(tensors, plan, tokens, start=shard.start, size=shard.size)
        whole = shards.whole_statistics(own, log_ratio_ops.join_log_ratios, shard.group)
        ctx.shard, ctx.plan = shard, plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens, whole[:, :4], *tensors)
        return tuple(result_like(tensors[0], tensors[0], x) for x in _results(tokens, whole, shard.size))

    @staticmethod
    def backward(ctx: _Context, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, saved, *tensors = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[3:9])
        zero = torch.zeros_like(saved[:, 0])
        ratio, of_q, of_p, of_kl, of_entropy = (zero if g is None else g.to(saved.dtype) for g in upstream)
        grads = log_ratio_ops.log_ratio_gradients(
            tensors,
            ctx.plan,
            tokens,
            saved,
            torch.stack([ratio + of_q, of_p - ratio, of_kl, of_entropy]),
            start=ctx.shard.start,
            of_kl=upstream[3] is not None,
            wanted=wanted,
        )
        for i in (0, 3):
            if wanted[i]:
                shards.sum_over_ranks(grads[i], ctx.shard.group)
        return None, None, None, *(grad if want else None for grad, want in zip(grads, wanted, strict=True)), None


def _results(tokens: Tensor, whole: Tensor, size: int) -> tuple[Tensor, ...]:
    """In the order of ``LogRatios``, from the statistics of the whole vocabulary, of that many words."""
    lq, lp, kl, entropy, chosen, apart = whole.unbind(dim=-1)
    inside = (tokens >= 0) & (tokens < size)
    logprobs = torch.where(inside, chosen - lq, float("nan"))
    log_ratio = torch.where(inside, apart - (lq - lp), float("nan"))
    empty = lq.isneginf() | lp.isneginf()
    kl, entropy = kl.masked_fill(empty, float("nan")), entropy.masked_fill(lq.isneginf(), float("nan"))
    return log_ratio, logprobs, logprobs - log_ratio, kl, entropy
