"""From logits: exact token KLs, log-probs and entropies, and their closed-form gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kullback.errors import InputError, ShapeError
from kullback.vocab import ops, partition, shards
from kullback.vocab.backends import choose
from kullback.vocab.formulas import DIVERGENCES, Divergence
from kullback.vocab.ops import differentiable

Direction = Literal["reverse", "forward", "jensen_shannon"]


@dataclass(frozen=True)
class Plan:
    """How a divergence of next-token distributions is computed; the first argument has the role of q."""

    divergence: Divergence
    skew: float
    temperature: float
    backend: str
    group: Any


def plan(
    direction: str, skew: float, temperature: float, backend: str | None, group: Any, device: torch.device
) -> tuple[Plan, bool]:
    """The plan, and whether policy and reference change roles.

    Raises:
        InputError: an option that cannot be right, in a sentence.
    """
    if direction not in ("reverse", "forward", "jensen_shannon"):
        raise InputError(f"direction {direction!r} came, but it is 'reverse', 'forward' or 'jensen_shannon'")
    if not 0 < skew <= 1:
        raise InputError(f"skew={skew:g} came, but the weight of the other model is above 0 and at most 1")
    if direction == "jensen_shannon" and skew != 1:
        raise InputError(f"skew={skew:g} came with direction='jensen_shannon', which is between both models already")
    if not temperature > 0:
        raise InputError(f"temperature={temperature:g} came, but it must be above 0")
    name = direction if direction == "jensen_shannon" else "kl" if skew == 1 else "skewed"
    chosen = Plan(DIVERGENCES[name], float(skew), temperature, choose(backend, device), group)
    return chosen, direction == "forward"


def token_kl(
    logits: Tensor,
    ref_logits: Tensor,
    *,
    direction: Direction = "reverse",
    skew: float = 1.0,
    temperature: float = 1.0,
    group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """The exact divergence of two next-token distributions, at every token, over the whole vocabulary.

    With q = softmax(logits/T) and p = softmax(ref_logits/T), ``"reverse"`` is KL(q‖(1−s)q + sp), which is
    KL(q‖p) at s = 1; ``"forward"`` is the same with q and p exchanged; ``"jensen_shannon"`` is
    ½KL(q‖m) + ½KL(p‖m), m = ½(q + p). Never negative, and exact to float32 also where it is small (relative
    error below 1e-4 from 5e-7 nats on). Differentiable once in both arguments, in closed form:
    ∂KL(q‖p)/∂logits = q(log q/p − KL)/T. Nothing of the logits' size is held but the gradient.

    Where the two models exclude the same words (logits of −inf) the words do not count. Where only the
    second distribution excludes a word that the first allows the KL is inf; the gradient of such a token is
    0, for no small step makes it finite. A token whose words are all excluded is nan.

    Args:
        logits: of the policy, (…, vocab), float32, float64, or half precision, which is computed in float32.
            With a group, this rank's columns; or a DTensor split over its last dimension.
        ref_logits: of the reference, likewise.
        direction: ``"reverse"``, ``"forward"`` or ``"jensen_shannon"``.
        skew: s, the weight of the other model in the mixture, in (0, 1].
        temperature: T.
        group: the ``torch.distributed`` group over which the vocabulary is split.
        backend: ``"eager"``, ``"compile"`` or ``"triton"``; None is Triton on CUDA, else eager.

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
    logits, group, _ = shards.unwrapped(logits, group, "logits")
    ref_logits, ref_group, _ = shards.unwrapped(ref_logits, group, "ref_logits")
    check_floating(logits=logits, ref_logits=ref_logits)
    if logits.shape != ref_logits.shape or not logits.ndim:
        raise ShapeError(
            f"logits has shape {tuple(logits.shape)} and ref_logits {tuple(ref_logits.shape)}: "
            "both must be (…, vocab), over one vocabulary"
        )
    if group is not ref_group:
        raise InputError("logits and ref_logits are split over different groups: split both over one")
    chosen, swapped = plan(direction, skew, temperature, backend, group, logits.device)
    pair = (ref_logits, logits) if swapped else (logits, ref_logits)
    value: Tensor = differentiable(_PairDivergence, *pair, chosen)
    return value


class _PairDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, zq: Tensor, zp: Tensor, plan: Plan) -> Tensor:
        saved = partition.saved_of_pairs(
            ops.pair_statistics(zq, zp, plan.temperature, plan.backend), plan.divergence, plan.group
        )
        if not plan.divergence.chains:
            sums = ops.pair_sums(zq, zp, saved, plan.divergence.name, plan.skew, plan.temperature, plan.backend)
            saved = partition.saved_of_sums(saved, sums, plan.group)
        ctx.plan = plan
        ctx.save_for_backward(zq, zp, saved)
        return result_like(zq, zp, saved[..., 2])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        zq, zp, saved = ctx.saved_tensors
        plan, (of_q, of_p, _) = ctx.plan, ctx.needs_input_grad
        grads = ops.pair_gradients(
            zq,
            zp,
            saved,
            upstream / plan.temperature,
            plan.divergence.name,
            plan.skew,
            plan.temperature,
            plan.backend,
            of_q,
            of_p,
        )
        return grads[0] if of_q else None, grads[1] if of_p else None, None


def token_logprobs(
    logits: Tensor,
    tokens: Tensor,
    *,
    entropy: bool = False,
    temperature: float = 1.0,
    group: Any = None,
    vocab_start: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """log q of given tokens, q = softmax(logits/T), and the entropy H(q) in the same pass.

    Differentiable once, in closed form: ∂log q(y)/∂logits = (1[v = y] − q)/T and ∂H/∂logits = −q(log q + H)/T.
    Excluded words (−inf) do not count; the log-prob of one is −inf. Nothing of the logits' size is held but
    the gradient.

    Args:
        logits: (…, vocab), float32, float64 or half precision, which is computed in float32. With a group,
            this rank's columns; or a DTensor split over its last dimension.
        tokens: (…), the ids of the tokens in the whole vocabulary.
        entropy: return (logprobs, entropy) instead of logprobs.
        temperature: T.
        group: the ``torch.distributed`` group over which the vocabulary is split.
        vocab_start: this rank's first column, where the ranks' shards differ in width.
        backend: ``"eager"``, ``"compile"`` or ``"triton"``; None is Triton on CUDA, else eager.

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
    logits, group, start = shards.unwrapped(logits, group, "logits")
    check_floating(logits=logits)
    check_integers(tokens)
    if not logits.ndim or tokens.shape != logits.shape[:-1]:
        raise ShapeError(
            f"tokens has shape {tuple(tokens.shape)}, but logits {tuple(logits.shape)} needs one token a row "
            "of (…, vocab)"
        )
    if not temperature > 0:
        raise InputError(f"temperature={temperature:g} came, but it must be above 0")
    start, size = shards.columns(logits.shape[-1], group, start if vocab_start is None else vocab_start)
    where = Where(start, size, temperature, choose(backend, logits.device), group)
    logprobs, entropies = differentiable(_TokenLogprobs, logits, tokens, where)
    return (logprobs, entropies) if entropy else logprobs


@dataclass(frozen=True)
class Where:
    """Where a block of columns is in the vocabulary, and who computes it."""

    start: int
    size: int
    temperature: float
    backend: str
    group: Any


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, tokens: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        own = ops.token_statistics(z, tokens, where.start, where.size, where.temperature, where.backend)
        whole = shards.joined(own, partition.join_tokens, where.group)
        ctx.where = where
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, tokens, whole)
        return token_results(z, tokens, whole, where)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        z, tokens, saved = ctx.saved_tensors
        where = ctx.where
        g1, g2 = (torch.zeros_like(saved[..., 0]) if g is None else g / where.temperature for g in upstream)
        grad = ops.token_gradients(z, tokens, where.start, saved[..., :2], g1, g2, where.temperature, where.backend)
        return grad, None, None


def token_results(z: Tensor, tokens: Tensor, whole: Tensor, where: Where) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from the statistics of the whole vocabulary."""
    total, entropy, chosen = whole.unbind(dim=-1)
    entropy = entropy.masked_fill(total.isneginf(), float("nan"))
    inside = (tokens >= 0) & (tokens < where.size)
    logprobs = torch.where(inside, chosen - total, float("nan"))
    return result_like(z, z, logprobs), result_like(z, z, entropy)


def result_like(zq: Tensor, zp: Tensor, x: Tensor) -> Tensor:
    """x in float32, or float64 where a model has it."""
    return x.to(torch.promote_types(torch.promote_types(zq.dtype, zp.dtype), torch.float32))


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
        if x is not None and not x.is_floating_point():
            raise InputError(f"{name} holds {x.dtype}, but floating-point numbers are needed")
