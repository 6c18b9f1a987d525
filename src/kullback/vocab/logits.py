"""From logits: exact token KLs, log-probs and entropies, and their closed-form gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from kullback.errors import InputError, ShapeError, shown
from kullback.vocab import ops, partition, shards
from kullback.vocab.backends import backend_for
from kullback.vocab.doors import tensor_of
from kullback.vocab.formulas import Divergence, divergence_of
from kullback.vocab.ops import Context, differentiable
from kullback.vocab.shards import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TokenDirection = Literal["reverse", "forward", "jensen_shannon"]
"""Which divergence of two next-token distributions: KL(q‖p), KL(p‖q), or the one between them."""


@dataclass(frozen=True)
class PairPlan:
    """How the divergence of two models' logits is computed; the first argument has the role of q.

    Attributes:
        divergence: with its skew.
        temperature: that divides the logits.
        backend: who computes a block.
        group: over which the vocabulary is split, or None.
    """

    divergence: Divergence
    temperature: float
    backend: str
    group: ProcessGroup | None


@dataclass(frozen=True)
class TokenPlan:
    """How log-probs and entropies of one model's logits are computed.

    Attributes:
        shard: where the columns are in the vocabulary.
        temperature: that divides the logits.
        backend: who computes a block.
    """

    shard: Shard
    temperature: float
    backend: str


def named_divergence(direction: str, skew: float) -> tuple[Divergence, bool]:
    """The divergence that the options name, and whether policy and reference change roles in it.

    Raises:
        InputError: an option that cannot be right, in a sentence.
    """
    if direction not in ("reverse", "forward", "jensen_shannon"):
        raise InputError(f"direction {shown(direction)} came, but it is 'reverse', 'forward' or 'jensen_shannon'")
    if not 0 < skew <= 1:
        raise InputError(f"skew={skew:g} came, but the weight of the other model is above 0 and at most 1")
    if direction == "jensen_shannon" and skew != 1:
        raise InputError(f"skew={skew:g} came with direction='jensen_shannon', which is between both models already")
    name = direction if direction == "jensen_shannon" else "kl" if skew == 1 else "skewed"
    return divergence_of(name, float(skew)), direction == "forward"


def token_kl(
    logits: Tensor,
    ref_logits: Tensor,
    *,
    direction: TokenDirection = "reverse",
    skew: float = 1.0,
    temperature: float = 1.0,
    group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor:
    """The exact KL(q‖p), or what ``direction`` names instead, of two next-token distributions at every token.

    With q = softmax(logits/T) and p = softmax(ref_logits/T), ``"reverse"`` is KL(q‖(1−s)q + sp), which is
    KL(q‖p) at s = 1; ``"forward"`` is the same with q and p exchanged; ``"jensen_shannon"`` is
    ½KL(q‖m) + ½KL(p‖m), m = ½(q + p). Never negative, and exact to float32 also where it is small (relative
    error below 1e-4 from 5e-7 nats on). Differentiable once in both arguments, in closed form:
    ∂KL(q‖p)/∂logits = q(log q/p − KL)/T. Nothing of the logits' size is held but the gradient.

    Where the two models exclude the same words (logits of −inf) the words do not count. Where only the
    second distribution excludes a word that the first allows the KL is inf; the gradient of such a token is
    0, for no small step makes it finite. A token whose words are all excluded is nan.

    Args:
        logits: of the policy, (…, vocab), float32, float64, or half precision, which is computed in float32: a
            tensor, or a NumPy array or lists, which become a tensor on the CPU.
            With a group, this rank's columns; or a DTensor split over its last dimension.
        ref_logits: of the reference, likewise.
        direction: ``"reverse"``, ``"forward"`` or ``"jensen_shannon"``; KL(q‖p) unless it is given.
        skew: s, the weight of the other model in the mixture, in (0, 1].
        temperature: T.
        group: the ``torch.distributed`` group over which the vocabulary is split.
        backend: ``"eager"``, ``"compile"``, ``"triton"`` or ``"auto"``, which None is: Triton on CUDA; on a CPU
            torch.compile's code, three times as fast, for calls of 67 million logits and once smaller ones have taken
            as long as it takes to make (a C++ compiler has to be there); else eager.

    Returns:
        (…), in nats, float32 (float64 for float64 logits); the same on every rank of the group.

    Raises:
        ShapeError: the logits differ in shape.
        InputError: an option that cannot be right.

    Source:
        Chain rule: Cover and Thomas, Elements of Information Theory, theorem 2.5.3. Skewed: Lee, 1999.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> kb.vocab.token_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([0.1201])
    """
    logits, ref_logits = tensor_of(logits, "logits"), tensor_of(ref_logits, "ref_logits")
    logits, group, _ = shards.local_columns(logits, group, "logits")
    ref_logits, ref_group, _ = shards.local_columns(ref_logits, group, "ref_logits")
    check_floating(logits=logits, ref_logits=ref_logits)
    if logits.shape != ref_logits.shape or not logits.ndim:
        raise ShapeError(
            f"logits has shape {tuple(logits.shape)} and ref_logits {tuple(ref_logits.shape)}: "
            "both must be (…, vocab), over one vocabulary"
        )
    if group is not ref_group:
        raise InputError("logits and ref_logits are split over different groups: split both over one")
    divergence, swapped = named_divergence(direction, skew)
    check_temperature(temperature)
    plan = PairPlan(
        divergence=divergence,
        temperature=temperature,
        backend=backend_for(backend, logits.device, logits.numel()),
        group=group,
    )
    pair = (ref_logits, logits) if swapped else (logits, ref_logits)
    value: Tensor = differentiable(_PairDivergence, *pair, plan)
    return value


class _PairContext(Context, Protocol):
    plan: PairPlan


class _PairDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _PairContext, zq: Tensor, zp: Tensor, plan: PairPlan) -> Tensor:
        own = ops.pair_statistics(zq, zp, temperature=plan.temperature, backend=plan.backend)
        saved = partition.saved_of_pairs(own, plan.divergence, plan.group)
        if not plan.divergence.chains:
            sums = ops.pair_sums(
                zq,
                zp,
                saved,
                divergence=plan.divergence.name,
                skew=plan.divergence.skew,
                temperature=plan.temperature,
                backend=plan.backend,
            )
            saved = partition.saved_of_sums(saved, sums, plan.group)
        ctx.plan = plan
        # Five float64 numbers a token: the gradient is made of the logits again, which the caller holds anyway.
        ctx.save_for_backward(zq, zp, saved)
        return result_like(zq, zp, saved[..., 2])

    @staticmethod
    def backward(ctx: _PairContext, upstream: Tensor) -> tuple[Tensor | None, ...]:
        zq, zp, saved = ctx.saved_tensors
        plan, (of_q, of_p, _) = ctx.plan, ctx.needs_input_grad
        grads = ops.pair_gradients(
            zq,
            zp,
            saved,
            upstream / plan.temperature,
            divergence=plan.divergence.name,
            skew=plan.divergence.skew,
            temperature=plan.temperature,
            backend=plan.backend,
            wanted=[of_q, of_p],
        )
        return grads[0] if of_q else None, grads[1] if of_p else None, None


def token_logprobs(
    logits: Tensor,
    tokens: Tensor,
    *,
    entropy: bool = False,
    temperature: float = 1.0,
    group: ProcessGroup | None = None,
    vocab_start: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """log q of given tokens, q = softmax(logits/T), and the entropy H(q) in the same pass.

    Differentiable once, in closed form: ∂log q(y)/∂logits = (1[v = y] − q)/T and ∂H/∂logits = −q(log q + H)/T.
    Excluded words (−inf) do not count; the log-prob of one is −inf. Nothing of the logits' size is held but
    the gradient.

    Args:
        logits: (…, vocab), float32, float64 or half precision, which is computed in float32; a tensor, a NumPy
            array or lists. With a group, this rank's columns; or a DTensor split over its last dimension.
        tokens: (…), the ids of the tokens in the whole vocabulary.
        entropy: return (logprobs, entropy) instead of logprobs.
        temperature: T.
        group: the ``torch.distributed`` group over which the vocabulary is split.
        vocab_start: this rank's first column, where the ranks' shards differ in width.
        backend: as for ``token_kl``.

    Returns:
        (…), in nats, float32 (float64 for float64 logits). On CUDA a token outside the vocabulary gives nan.

    Raises:
        ShapeError: tokens does not name one token a row.
        InputError: a token outside the vocabulary (on a CPU), or an option that cannot be right.

    Example:
        >>> import torch
        >>> import kullback as kb
        >>> kb.vocab.token_logprobs(torch.zeros(1, 4), torch.tensor([2]), entropy=True)
        (tensor([-1.3863]), tensor([1.3863]))
    """
    logits, tokens = tensor_of(logits, "logits"), tensor_of(tokens, "tokens")
    logits, group, start = shards.local_columns(logits, group, "logits")
    check_floating(logits=logits)
    check_integers(tokens)
    if not logits.ndim or tokens.shape != logits.shape[:-1]:
        raise ShapeError(
            f"tokens has shape {tuple(tokens.shape)}, but logits {tuple(logits.shape)} needs one token a row "
            "of (…, vocab)"
        )
    check_temperature(temperature)
    shard = shards.shard(logits.shape[-1], group, start if vocab_start is None else vocab_start)
    plan = TokenPlan(shard=shard, temperature=temperature, backend=backend_for(backend, logits.device, logits.numel()))
    logprobs, entropies = differentiable(_TokenLogprobs, logits, tokens, plan)
    return (logprobs, entropies) if entropy else logprobs


class _TokenContext(Context, Protocol):
    plan: TokenPlan


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _TokenContext, z: Tensor, tokens: Tensor, plan: TokenPlan) -> tuple[Tensor, Tensor]:
        shard = plan.shard
        own = ops.token_statistics(
            z, tokens, start=shard.start, size=shard.size, temperature=plan.temperature, backend=plan.backend
        )
        whole = shards.whole_statistics(own, partition.join_tokens, shard.group)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, tokens, whole)
        return token_results(z, tokens, whole, shard.size)

    @staticmethod
    def backward(ctx: _TokenContext, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        z, tokens, saved = ctx.saved_tensors
        plan = ctx.plan
        g1, g2 = (torch.zeros_like(saved[..., 0]) if g is None else g / plan.temperature for g in upstream)
        grad = ops.token_gradients(
            z,
            tokens,
            saved[..., :2],
            g1,
            g2,
            start=plan.shard.start,
            temperature=plan.temperature,
            backend=plan.backend,
        )
        return grad, None, None


def token_results(z: Tensor, tokens: Tensor, whole: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from the statistics of the whole vocabulary, of that many words."""
    total, entropy, chosen = whole.unbind(dim=-1)
    entropy = entropy.masked_fill(total.isneginf(), float("nan"))
    inside = (tokens >= 0) & (tokens < size)
    logprobs = torch.where(inside, chosen - total, float("nan"))
    return result_like(z, z, logprobs), result_like(z, z, entropy)


def result_like(zq: Tensor, zp: Tensor, x: Tensor) -> Tensor:
    """x in float32, or float64 where a model has it."""
    return x.to(torch.promote_types(torch.promote_types(zq.dtype, zp.dtype), torch.float32))


def check_temperature(temperature: float) -> None:
    """A temperature is above 0.

    Raises:
        InputError: it is not.
    """
    if not temperature > 0:  # nan is not, either
        raise InputError(f"temperature={temperature:g} came, but it must be above 0")


def check_integers(tokens: Tensor) -> None:
    """Token ids are integers.

    Raises:
        InputError: they are not.
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"tokens holds {tokens.dtype}, but the ids of tokens are integers")


def check_floating(**tensors: Tensor | None) -> None:
    """Every tensor that is given holds floating-point numbers.

    Raises:
        InputError: one does not.
    """
    for name, x in tensors.items():
        if x is not None and not isinstance(x, Tensor):
            raise InputError(f"{name} is a {type(x).__name__}, but a torch tensor is needed: torch.as_tensor(x)")
        if x is not None and not x.is_floating_point():
            raise InputError(f"{name} holds {x.dtype}, but floating-point numbers are needed")
