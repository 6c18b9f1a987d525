"""What the full-vocabulary functions are measured on and against: torch's own formulas, and other libraries.

A library's own function is used where it is installed, in an environment of its own that also has this package::

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install -e '.[torch,report]' triton trl liger-kernel cut-cross-entropy
    /tmp/peers/bin/pip install verl --no-deps && /tmp/peers/bin/pip install ray tensordict
    /tmp/peers/bin/python -m benchmarks.vocab

Where one is missing its published formula is written here, and the row says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHECKPOINT_ROWS = 128
LIGER_ROWS = 1024
LOGIT_STD = 3.0


# --- inputs


@dataclass(frozen=True)
class Shape:
    """The size of a problem.

    Attributes:
        tokens, words: of the logits.
        dtype: of the inputs.
        hidden: size of the hidden states, where there are any.
        noise: standard deviation of the reference's logits about the policy's; the KL is near noise²/2.
    """

    tokens: int
    words: int
    dtype: torch.dtype
    hidden: int = 0
    noise: float = 0.05

    def __str__(self) -> str:
        parts = f"{self.tokens:,} tokens", f"{self.words:,} words", str(self.dtype).removeprefix("torch.")
        return ", ".join((*parts, f"hidden {self.hidden:,}") if self.hidden else parts)

    def small(self) -> Shape:
        """For a run that only shows that it runs."""
        return replace(self, tokens=96, words=4096, hidden=64 if self.hidden else 0)


@dataclass(frozen=True)
class Inputs:
    """What every contender of a case gets.

    Attributes:
        args: of its function.
        leaves: those whose gradients are wanted.
        upstream: the gradient to every result, one number a token.
    """

    args: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]
    upstream: tuple[Tensor, ...]


def normal(*shape: int, like: Shape, std: float = 1.0, around: Tensor | None = None) -> Tensor:
    """Normal numbers, made rows at a time so that no float32 copy of all is held."""
    found = torch.empty(shape, dtype=like.dtype)
    for start in range(0, len(found), 256):
        rows = found[start : start + 256]
        noise = torch.randn(rows.shape).mul_(std)
        rows.copy_(noise if around is None else noise.add_(around[start : start + 256]))
    return found


def pair(shape: Shape) -> Inputs:
    """Logits of policy and reference."""
    size = shape.tokens, shape.words
    policy = normal(*size, like=shape, std=LOGIT_STD)
    reference = normal(*size, like=shape, std=shape.noise, around=policy)
    return Inputs((policy.requires_grad_(), reference), (policy,), (torch.rand(shape.tokens),))


def drawn(shape: Shape) -> Inputs:
    """Logits and tokens."""
    logits = normal(shape.tokens, shape.words, like=shape, std=LOGIT_STD).requires_grad_()
    tokens = torch.randint(shape.words, (shape.tokens,))
    return Inputs((logits, tokens), (logits,), (torch.rand(shape.tokens), torch.rand(shape.tokens)))


def heads(shape: Shape) -> Inputs:
    """Hidden states that both models share, and two heads, of which the policy's is trained."""
    std = shape.hidden**-0.5
    hidden = normal(shape.tokens, shape.hidden, like=shape).requires_grad_()
    weight = normal(shape.words, shape.hidden, like=shape, std=LOGIT_STD * std)
    ref_weight = normal(shape.words, shape.hidden, like=shape, std=shape.noise * std, around=weight)
    leaves = hidden, weight.requires_grad_()
    return Inputs((*leaves, hidden.detach(), ref_weight), leaves, (torch.rand(shape.tokens) / shape.tokens,))


def shared_head(shape: Shape) -> Inputs:
    """Hidden states of two models, and their one head, which is trained."""
    std = LOGIT_STD * shape.hidden**-0.5
    hidden = normal(shape.tokens, shape.hidden, like=shape).requires_grad_()
    ref_hidden = normal(shape.tokens, shape.hidden, like=shape, std=shape.noise / LOGIT_STD, around=hidden.detach())
    weight = normal(shape.words, shape.hidden, like=shape, std=std).requires_grad_()
    upstream = (torch.rand(shape.tokens) / shape.tokens,)
    return Inputs((hidden, weight, ref_hidden, weight.detach()), (hidden, weight), upstream)


def one_head(shape: Shape) -> Inputs:
    """Hidden states, a head and tokens, for log-probs."""
    made = heads(shape)
    return Inputs((*made.leaves, torch.randint(shape.words, (shape.tokens,))), made.leaves, made.upstream)


def one_head_and_entropy(shape: Shape) -> Inputs:
    """The same for log-probs and entropies."""
    made = one_head(shape)
    return Inputs(made.args, made.leaves, made.upstream * 2)


# --- the formula, as torch writes it


def naive_kl(policy: Tensor, reference: Tensor) -> Tensor:
    """Σ q (log q − log p) in float32 from two log-softmaxes."""
    log_q, log_p = policy.float().log_softmax(-1), reference.float().log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def torch_kl_div(policy: Tensor, reference: Tensor) -> Tensor:
    """``F.kl_div(log p, log q, log_target=True)`` is KL(q‖p)."""
    log_q, log_p = policy.float().log_softmax(-1), reference.float().log_softmax(-1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1)


def torch_distributions(policy: Tensor, reference: Tensor) -> Tensor:
    """``torch.distributions.kl_divergence`` of two Categoricals."""
    q, p = (torch.distributions.Categorical(logits=z.float(), validate_args=False) for z in (policy, reference))
    found: Tensor = torch.distributions.kl_divergence(q, p)
    return found


def exact_kl(policy: Tensor, reference: Tensor) -> Tensor:
    """KL(q‖p) in float64 as Σ (p − q + q (log q − log p)): every term ≥ 0, so that small ones keep their digits."""
    log_q, log_p = policy.double().log_softmax(-1), reference.double().log_softmax(-1)
    gap = log_p - log_q
    return (log_q.exp() * (gap.expm1() - gap)).sum(-1)


def naive_logprobs(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log q(y) and −Σ q log q in float32 (float64 for float64 logits) from one log-softmax."""
    log_q = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return log_q.gather(-1, tokens[:, None])[:, 0], -(log_q.exp() * log_q).sum(-1)


def naive_head_kl(hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor) -> Tensor:
    """Both models' logits in the dtype of the inputs, then ``naive_kl``."""
    return naive_kl(hidden @ weight.T, ref_hidden @ ref_weight.T)


def naive_head_logprobs(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """log q(y) from logits in the dtype of the inputs."""
    return -F.cross_entropy((hidden @ weight.T).float(), tokens, reduction="none")


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` of the whole function, when it is first called."""
    made: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        made[:] = made or [torch.compile(function, dynamic=False)]
        return made[0](*args)

    return call


def checkpointed(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """128 rows at a time, each computed again in the backward pass."""

    def by_rows(*tensors: Tensor) -> Tensor:
        parts = zip(*(torch.split(x, CHECKPOINT_ROWS) for x in tensors), strict=True)
        return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts])

    return by_rows


# --- other libraries


@dataclass(frozen=True)
class Peer:
    """A function of another library.

    Attributes:
        name: to show: with the version, or that the formula is written here.
        fn: what runs; the library is imported at the first call.
    """

    name: str
    fn: Callable[..., Any]


def peer(
    name: str, package: str, module: str, build: Callable[[Any], Any], written: Callable[..., Any] | None = None
) -> Peer:
    """``build(module)`` where the package is installed, else the formula written here, if it is."""
    try:
        label = f"{name} ({package} {version(package)})"
    except PackageNotFoundError:
        if written is None:
            return Peer(name, _missing(package))
        return Peer(f"{name} (written from its formula)", written)
    made: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        if not made:
            with _stand_ins(package):
                made.append(build(importlib.import_module(module)))
        return made[0](*args)

    return Peer(label, call)


@contextmanager
def _stand_ins(package: str) -> Iterator[None]:
    """TRL's kernels import its trainers, which import ``datasets`` for names that no kernel uses."""
    if package != "trl" or importlib.util.find_spec("datasets"):
        yield
        return
    module = sys.modules["datasets"] = types.ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)
    for name in ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict"):
        setattr(module, name, type(name, (), {}))
    try:
        yield
    finally:
        del sys.modules["datasets"]


def _missing(package: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise ImportError(f"{package} is not installed")

    return refuse


def written_trl_pair(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log q(y) row by row (float32: z_y − logsumexp z; half precision: log-softmax), −Σ q log q 128 rows at a time."""

    def entropy(part: Tensor) -> Tensor:
        log_q = part.log_softmax(-1)
        return -(log_q.exp() * log_q).sum(-1)

    return _row_by_row(logits, tokens), torch.cat([entropy(part) for part in torch.split(logits, 128)])


def written_verl_pair(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log q(y) as TRL's, and logsumexp z − Σ softmax(z) z, in the dtype of the logits."""
    entropy = logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)
    return _row_by_row(logits, tokens), entropy


def _row_by_row(logits: Tensor, tokens: Tensor) -> Tensor:
    if logits.dtype in (torch.float32, torch.float64):
        return logits.gather(-1, tokens[:, None])[:, 0] - torch.stack([row.logsumexp(-1) for row in logits])
    rows = zip(logits, tokens[:, None], strict=True)
    return torch.cat([row.log_softmax(-1).gather(-1, token) for row, token in rows])


def written_liger_chunked(*inputs: Tensor) -> Tensor:
    """The mean KL(q‖p), 1024 tokens at a time, logits and log-softmaxes in the dtype of the inputs."""
    found: Tensor = _GradientInForward.apply(*inputs)  # type: ignore[no-untyped-call]
    return found


def _summed_kl(hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor) -> Tensor:
    log_q, log_p = (hidden @ weight.T).log_softmax(-1), (ref_hidden @ ref_weight.T).log_softmax(-1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1).sum()


class _GradientInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor) -> Tensor:
        total, to_weight, to_hidden = weight.new_zeros((), dtype=torch.float32), torch.zeros_like(weight), []
        for h, r in zip(*(torch.split(x, LIGER_ROWS) for x in (hidden, ref_hidden)), strict=True):
            with torch.enable_grad():
                leaves = h.detach().requires_grad_(), weight.detach().requires_grad_()
                loss = compiled(_summed_kl)(*leaves, r, ref_weight) / len(hidden)
            of_hidden, of_weight = torch.autograd.grad(loss, leaves)
            total += loss.detach()
            to_weight += of_weight
            to_hidden.append(of_hidden)
        ctx.save_for_backward(torch.cat(to_hidden), to_weight)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * upstream for grad in ctx.saved_tensors), None, None


def _liger_chunked(liger: Any) -> Callable[..., Any]:
    loss = liger.LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=1.0, chunk_size=LIGER_ROWS)

    def mean(hidden: Tensor, *rest: Tensor) -> Any:
        return loss(hidden, *rest, torch.zeros(len(hidden), dtype=torch.long, device=hidden.device))

    return mean


TRL_PAIR = peer(
    "TRL's pair",
    "trl",
    "trl.trainer.utils",
    lambda trl: lambda z, tokens: (trl.selective_log_softmax(z, tokens), trl.entropy_from_logits(z)),
    written_trl_pair,
)
VERL_PAIR = peer(
    "verl's pair",
    "verl",
    "verl.utils.torch_functional",
    lambda verl: lambda z, tokens: (verl.logprobs_from_logits_v2(z, tokens), verl.entropy_from_logits(z)),
    written_verl_pair,
)
LIGER_CHUNKED = peer(
    "Liger's chunked JSD(β=1)",
    "liger-kernel",
    "liger_kernel.chunked_loss",
    _liger_chunked,
    written_liger_chunked,
)
CUT_CROSS_ENTROPY = peer(
    "cut-cross-entropy's CPU form",
    "cut-cross-entropy",
    "cut_cross_entropy",
    lambda cce: lambda *args: -cce.linear_cross_entropy(*args, reduction="none", impl="torch_compile"),
    compiled(naive_head_logprobs),
)
"""torch.compile of the cross entropy of whole logits; the library's kernels need CUDA."""


def _trl_divergence(trl: Any) -> Callable[..., Any]:
    def kl(hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor) -> Any:
        return trl.ChunkedDivergenceFunction.apply(hidden, weight, None, ref_hidden, ref_weight, None, 1.0)[0]

    return kl


TRL_DIVERGENCE = peer("TRL's chunked divergence", "trl", "trl.kernels.chunked_divergence", _trl_divergence)
TRL_KERNEL = peer(
    "TRL's kernel", "trl", "trl.kernels.logprob_entropy", lambda trl: trl.selective_log_softmax_and_entropy
)

# --- theirs that need CUDA


def _liger_kl_div(liger: Any) -> Callable[..., Any]:
    loss = liger.LigerKLDIVLoss(reduction="batchmean", log_target=True)
    return lambda policy, reference: loss(policy.float().log_softmax(-1), reference.float().log_softmax(-1))


def _liger_jsd(liger: Any) -> Callable[..., Any]:
    loss = liger.LigerJSD(beta=1.0)
    return lambda policy, reference: loss(policy.float().log_softmax(-1), reference.float().log_softmax(-1))


def _liger_fused_linear_jsd(liger: Any) -> Callable[..., Any]:
    loss = liger.LigerFusedLinearJSD(jsd_beta=1.0)
    return lambda hidden, weight, ref_hidden, ref_weight: loss(hidden, weight, ref_hidden, ref_weight, None)


LIGER_KL_DIV = peer("Liger's kl_div, KL(p‖q)", "liger-kernel", "liger_kernel.transformers", _liger_kl_div)
"""The gradient of its kernel goes to the second distribution only."""
LIGER_JSD = peer("Liger's JSD(β=1)", "liger-kernel", "liger_kernel.transformers", _liger_jsd)
LIGER_FUSED_LINEAR_JSD = peer(
    "Liger's fused linear JSD(β=1)", "liger-kernel", "liger_kernel.transformers", _liger_fused_linear_jsd
)
CUT_CROSS_ENTROPY_EXACT = peer(
    "cut-cross-entropy's kernel, exact",
    "cut-cross-entropy",
    "cut_cross_entropy",
    lambda cce: lambda *args: -cce.linear_cross_entropy(*args, reduction="none", impl="cce", filter_eps=None),
)
VERL_KERNEL = peer(
    "verl's kernel",
    "verl",
    "verl.utils.kernel.linear_cross_entropy",
    lambda verl: lambda hidden, weight, tokens: tuple(verl.linear_cross_entropy(hidden, weight, tokens, 1.0, "none")),
)
