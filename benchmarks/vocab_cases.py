"""What is measured of the full-vocabulary functions: contenders, floors, truths and cases, one record a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks import vocab_peers as peers
from benchmarks.measure import Goal, as_fast_as, beyond_gradient, share_of_peak, times_floor, within_nats
from benchmarks.vocab_peers import Inputs, Shape, drawn, heads, normal, one_head, pair
from kullback import vocab

CHECKED_ROWS = 64


# --- contenders

Work = Callable[[Inputs], tuple[Any, tuple[Tensor, ...]]]
"""Inputs → gradients, and values of every token."""


def per_token(function: Callable[..., Any], **options: Any) -> Work:
    """One value of every token or more, whatever gradient comes to them."""

    def work(x: Inputs) -> tuple[Any, tuple[Tensor, ...]]:
        found = function(*x.args, **options)
        values = found if isinstance(found, tuple) else (found,)
        upstream = tuple(g.to(value.dtype) for g, value in zip(x.upstream, values, strict=True))
        return torch.autograd.grad(values, x.leaves, upstream), tuple(value.detach() for value in values)

    return work


def weighted(function: Callable[..., Any], **options: Any) -> Work:
    """A sum whose weights are known, and the value of every token."""

    def work(x: Inputs) -> tuple[Any, tuple[Tensor, ...]]:
        total, values, *_ = function(*x.args, x.upstream[0], **options)
        return torch.autograd.grad(total, x.leaves), (values,)

    return work


def only_total(function: Callable[..., Any]) -> Work:
    """A scalar without values of tokens."""
    return lambda x: (torch.autograd.grad(function(*x.args), x.leaves), ())


KL_OURS: dict[str, Work] = {
    "kullback": per_token(vocab.token_kl),
    "kullback, eager": per_token(vocab.token_kl, backend="eager"),
    "kullback, compile": per_token(vocab.token_kl, backend="compile"),
}
KL_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_kl),
    "F.kl_div": per_token(peers.torch_kl_div),
    "torch.distributions": per_token(peers.torch_distributions),
    "torch.compile of naive": per_token(peers.compiled(peers.naive_kl)),
    "naive, checkpointed": per_token(peers.checkpointed(peers.naive_kl)),
}
LOGPROB_OURS: dict[str, Work] = {
    "kullback, eager": per_token(vocab.token_logprobs, entropy=True, backend="eager"),
    "kullback, compile": per_token(vocab.token_logprobs, entropy=True, backend="compile"),
}
LOGPROB_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_logprobs),
    "torch.compile of naive": per_token(peers.compiled(peers.naive_logprobs)),
    peers.TRL_PAIR.name: per_token(peers.TRL_PAIR.fn),
    peers.VERL_PAIR.name: per_token(peers.VERL_PAIR.fn),
}
HEAD_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_head_kl),
    peers.LIGER_CHUNKED.name: only_total(peers.LIGER_CHUNKED.fn),
    peers.TRL_DIVERGENCE.name: per_token(peers.TRL_DIVERGENCE.fn),
}
ONE_HEAD_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_head_logprobs),
    peers.CUT_CROSS_ENTROPY.name: per_token(peers.CUT_CROSS_ENTROPY.fn),
}


def head_kl(form: str, precision: str = "float32", backend: str = "eager") -> Work:
    """One of our two fused forms."""
    if form == "weighted":
        return weighted(vocab.linear_weighted_kl, precision=precision, backend=backend)
    return per_token(vocab.linear_token_kl, precision=precision, backend=backend)


# --- floors


@dataclass(frozen=True)
class Rates:
    """What the machine does at best.

    Attributes:
        bandwidth: bytes a second, the better of reading and of copying.
        fresh: bytes a second of a copy into memory not used before.
        products: flops a second of h·Wᵀ, G·W and Gᵀ·h, where there are heads.
    """

    bandwidth: float
    fresh: float
    products: tuple[float, ...] = ()

    def __str__(self) -> str:
        rates = ", ".join(f"{rate / 1e12:.3f}" for rate in self.products)
        told = f"memory {self.bandwidth / 1e9:.1f} GB/s ({self.fresh / 1e9:.1f} into fresh pages)"
        return told + (f"; h·Wᵀ, G·W, Gᵀ·h at {rates} TFLOP/s" if rates else "")


def rates(shape: Shape, numbers: int) -> Rates:
    """The best of several runs of each; so many numbers are copied."""
    x = torch.ones(numbers)
    y = torch.empty_like(x)
    works: tuple[Callable[[], object], ...] = (lambda: y.copy_(x), lambda: x.sum(), lambda: x.clone())
    copy, read, fresh = (min(measure.timed(work) for _ in range(8)) for work in works)
    products = _products(shape) if shape.hidden else ()
    return Rates(max(2 * x.nbytes / copy, x.nbytes / read), 2 * x.nbytes / fresh, products)


def _products(shape: Shape) -> tuple[float, ...]:
    best = [0.0, 0.0, 0.0]
    for words in sorted({min(shape.words, 4096), min(shape.words, 16384)}):
        h, w, g = (
            normal(*size, like=shape)
            for size in ((shape.tokens, shape.hidden), (words, shape.hidden), (shape.tokens, words))
        )
        flops = 2.0 * shape.tokens * shape.hidden * words
        for i, (a, b) in enumerate(((h, w.T), (g, w), (g.T, h))):
            best[i] = max(best[i], flops / min(measure.timed(partial(torch.mm, a, b)) for _ in range(4)))
    return tuple(best)


def moved(times: int) -> Callable[[Shape, Rates], float]:
    """Seconds to move the logits so many times."""
    return lambda shape, rates: times * shape.tokens * shape.words * shape.dtype.itemsize / rates.bandwidth


def multiplied(models: int) -> Callable[[Shape, Rates], float]:
    """Seconds for so many models' logits, each once, and the gradients of one model's hidden states and head."""

    def seconds(shape: Shape, rates: Rates) -> float:
        logits, to_hidden, to_weight = rates.products
        return 2.0 * shape.tokens * shape.hidden * shape.words * (models / logits + 1 / to_hidden + 1 / to_weight)

    return seconds


# --- truth, of the first rows, in float64


def pair_truth(x: Inputs) -> tuple[Tensor, ...]:
    return (peers.exact_kl(*(z[:CHECKED_ROWS].detach() for z in x.args)),)


def drawn_truth(x: Inputs) -> tuple[Tensor, ...]:
    logits, tokens = (z[:CHECKED_ROWS].detach() for z in x.args)
    return peers.naive_logprobs(logits.double(), tokens)


def heads_truth(x: Inputs) -> tuple[Tensor, ...]:
    hidden, weight, ref_hidden, ref_weight = x.args
    return (peers.exact_kl(exact_logits(hidden, weight), exact_logits(ref_hidden, ref_weight)),)


def one_head_truth(x: Inputs) -> tuple[Tensor, ...]:
    hidden, weight, tokens = x.args
    return peers.naive_logprobs(exact_logits(hidden, weight), tokens[:CHECKED_ROWS])[: len(x.upstream)]


def exact_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden[:CHECKED_ROWS].detach().double() @ weight.detach().double().T


# --- cases


@dataclass(frozen=True)
class Kind:
    """What cases of one kind share.

    Attributes:
        make: the inputs.
        truth: values of the first rows.
        relative: whether an error is relative to the truth, or in nats.
        floor: seconds that the work takes at least.
        counts: what the floor counts.
    """

    make: Callable[[Shape], Inputs]
    truth: Callable[[Inputs], tuple[Tensor, ...]]
    relative: bool
    floor: Callable[[Shape, Rates], float]
    counts: str


PAIR = Kind(pair, pair_truth, True, moved(5), "logits read four times, gradient written once")
DRAWN = Kind(drawn, drawn_truth, False, moved(3), "logits read twice, gradient written once")
HEADS = Kind(heads, heads_truth, True, multiplied(2), "8·N·H·V flops: two models' logits, two gradients")
ONE_HEAD = Kind(one_head, one_head_truth, False, multiplied(1), "6·N·H·V flops: logits, two gradients")


@dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
        title: what is computed, forward and backward.
        kind: its inputs, truth and floor.
        shape: its size.
        ours, others: contenders.
        goals: for ours.
    """

    title: str
    kind: Kind
    shape: Shape
    ours: dict[str, Work]
    others: dict[str, Work]
    goals: tuple[Goal, ...] = ()

    def small(self) -> Case:
        """For a run that only shows that it runs."""
        return replace(self, shape=self.shape.small())


FULL, HALF = torch.float32, torch.bfloat16
CASES: dict[str, Case] = {
    "kl_float32": Case(
        "Token KL from logits",
        PAIR,
        Shape(2048, 131072, FULL),
        KL_OURS,
        KL_PEERS,
        (as_fast_as("naive", 9), as_fast_as("torch.compile of naive", 1.2), times_floor(2.2), beyond_gradient(8)),
    ),
    "kl_bfloat16": Case(
        "Token KL from logits",
        PAIR,
        Shape(2048, 131072, HALF),
        KL_OURS,
        KL_PEERS,
        (
            as_fast_as("naive", 15),
            as_fast_as("torch.compile of naive", 1.5),
            times_floor(3),
            share_of_peak("naive", 10),
        ),
    ),
    "kl_apart": Case(
        "Token KL from logits, of models half a nat apart",
        PAIR,
        Shape(512, 131072, FULL, noise=1.0),
        KL_OURS,
        {name: KL_PEERS[name] for name in ("naive", "torch.compile of naive")},
    ),
    "logprobs_float32": Case(
        "Log-prob and entropy from logits",
        DRAWN,
        Shape(2048, 32768, FULL),
        LOGPROB_OURS,
        LOGPROB_PEERS,
        (as_fast_as("TRL's pair", 3.5), as_fast_as("verl's pair", 6.5), as_fast_as("torch.compile of naive", 1.4)),
    ),
    "logprobs_bfloat16": Case(
        "Log-prob and entropy from logits",
        DRAWN,
        Shape(2048, 131072, HALF),
        LOGPROB_OURS,
        LOGPROB_PEERS,
        (as_fast_as("TRL's pair", 5), within_nats(1e-5)),
    ),
    "head_bfloat16": Case(
        "KL from hidden states and heads, logits rounded to bfloat16",
        HEADS,
        Shape(2048, 131072, HALF, hidden=1024),
        {
            "kullback, weights known": head_kl("weighted", "bfloat16"),
            "kullback, weights known, compile": head_kl("weighted", "bfloat16", "compile"),
            "kullback, any upstream, compile": head_kl("token", "bfloat16", "compile"),
        },
        HEAD_PEERS,
        (as_fast_as("naive", 2.2), share_of_peak("naive", 12), times_floor(1.5)),
    ),
    "shared_head": Case(
        "KL from hidden states, one head that both models have",
        replace(HEADS, make=peers.shared_head),
        Shape(2048, 131072, HALF, hidden=1024, noise=0.03),
        {
            f"kullback, {text}, {precision}": head_kl(form, precision, "auto")
            for form, text in (("weighted", "weights known"), ("token", "any upstream"))
            for precision in ("float32", "mixed", "bfloat16")
        },
        HEAD_PEERS,
        (as_fast_as("naive", 2), as_fast_as("Liger", 1.2), as_fast_as("TRL", 1.2), share_of_peak("naive", 12)),
    ),
    "head_float32": Case(
        "KL from hidden states and heads",
        HEADS,
        Shape(2048, 131072, FULL, hidden=1024),
        {
            "kullback, weights known": head_kl("weighted"),
            "kullback, weights known, compile": head_kl("weighted", backend="compile"),
        },
        {"naive": HEAD_PEERS["naive"]},
        (as_fast_as("naive", 1.2), share_of_peak("naive", 8)),
    ),
    "head_forms": Case(
        "KL from hidden states and heads, every form",
        HEADS,
        Shape(1024, 32768, HALF, hidden=1024),
        {
            f"kullback, {text}, {precision} logits, {backend}": head_kl(form, precision, backend)
            for form, text in (("weighted", "weights known"), ("token", "any upstream"))
            for precision in ("float32", "bfloat16")
            for backend in ("eager", "compile")
        },
        HEAD_PEERS,
    ),
    "head_forms_float32": Case(
        "KL from hidden states and heads, every form",
        HEADS,
        Shape(1024, 32768, FULL, hidden=1024),
        {
            f"kullback, {text}, {backend}": head_kl(form, "float32", backend)
            for form, text in (("weighted", "weights known"), ("token", "any upstream"))
            for backend in ("eager", "compile")
        },
        HEAD_PEERS,
    ),
    "head_logprobs": Case(
        "Log-prob from hidden states and a head",
        ONE_HEAD,
        Shape(1024, 32768, HALF, hidden=1024),
        {
            "kullback, weights known, float32 logits": weighted(vocab.linear_weighted_logprobs),
            "kullback, weights known": weighted(vocab.linear_weighted_logprobs, precision="bfloat16"),
            "kullback, any upstream": per_token(vocab.linear_token_logprobs, precision="bfloat16"),
        },
        ONE_HEAD_PEERS,
    ),
}
