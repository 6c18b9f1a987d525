"""What is measured on a GPU: inputs, truths, floors and contenders, one record a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import vocab_peers as peers
from benchmarks.vocab_cases import CHECKED_ROWS, Work, exact_logits, only_total, per_token, weighted
from benchmarks.vocab_peers import Inputs, Shape
from kullback import vocab

TOKENS, WORDS, HIDDEN = 8192, 131072, 4096
HALF = torch.bfloat16
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Truth:
    """Of the first rows, in float64: values of each result, and the gradient to the first leaf, or None."""

    values: tuple[Tensor, ...]
    gradient: Tensor | None


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes:
        name, title: for the command, and for people.
        shape: its size.
        make: the inputs.
        truth: of the inputs.
        works: contenders.
        seconds: the floor, from (shape, facts).
        counts: what the floor counts.
        relative: whether errors are relative, or in nats.
    """

    name: str
    title: str
    shape: Shape
    make: Callable[[Shape], Inputs]
    truth: Callable[[Inputs], Truth]
    works: dict[str, Work]
    seconds: Callable[[Shape, Facts], float]
    counts: str
    relative: bool = True

    @property
    def unit(self) -> str:
        """Of the errors."""
        return "relative" if self.relative else "in nats; of the gradient relative"

    def sized(self, shape: Shape) -> Part:
        """The same at another size."""
        return replace(self, shape=shape)

    def floor(self, facts: Facts) -> float:
        """Seconds that the work takes at least."""
        return self.seconds(self.shape, facts)

    def errors(self, grads: tuple[Tensor, ...], values: tuple[Tensor, ...], truth: Truth) -> dict[str, Any]:
        """Of the first result and of the gradient, where there are any."""
        found: dict[str, Any] = {}
        if values:
            exact = truth.values[0]
            value = values[0][: len(exact)].double()
            off = (value - exact).abs() / (exact.abs() if self.relative else 1.0)
            mean = (value.mean() - exact.mean()).abs() / (exact.mean().abs() if self.relative else 1.0)
            found = {"worst": float(off.max()), "mean": float(mean)}
        if truth.gradient is not None:
            gradient = grads[0][: len(truth.gradient)].double()
            found["gradient"] = float((gradient - truth.gradient).norm() / truth.gradient.norm())
        return found


# --- inputs


def uniform(x: Inputs) -> Inputs:
    """The same with one upstream gradient for all tokens: that of the mean, which is all that some peers have."""
    return replace(x, upstream=tuple(torch.full_like(g, 1 / len(g)) for g in x.upstream))


def pair(shape: Shape) -> Inputs:
    return uniform(peers.pair(shape))


def shared(shape: Shape) -> Inputs:
    """Hidden states of two models near to each other, and one head, which is trained."""
    return uniform(peers.shared_head(shape))


def frozen(shape: Shape) -> Inputs:
    """The same with a head that is not."""
    x = shared(shape)
    hidden, weight, ref_hidden, _ = x.args
    weight = weight.detach()
    return Inputs((hidden, weight, ref_hidden, weight), (hidden,), x.upstream)


def shared_and_tokens(shape: Shape) -> Inputs:
    """The frozen head with drawn tokens, for log-ratios."""
    x = frozen(shape)
    return replace(x, args=(*x.args, torch.randint(shape.words, (shape.tokens,))))


def one_head(shape: Shape) -> Inputs:
    return uniform(peers.one_head_and_entropy(shape))


# --- truths


def pair_truth(x: Inputs) -> Truth:
    policy, reference = (z[:CHECKED_ROWS].detach().double() for z in x.args)
    log_q, log_p = policy.log_softmax(-1), reference.log_softmax(-1)
    kl = peers.exact_kl(policy, reference)
    return Truth((kl,), log_q.exp() * (log_q - log_p - kl[:, None]) * x.upstream[0][:CHECKED_ROWS, None].double())


def shared_truth(x: Inputs) -> Truth:
    hidden, weight, ref_hidden, ref_weight, *_ = x.args
    logits = exact_logits(hidden, weight), exact_logits(ref_hidden, ref_weight)
    to_logits = pair_truth(Inputs(logits, (), x.upstream))
    assert to_logits.gradient is not None
    return Truth(to_logits.values, to_logits.gradient @ weight.detach().double())


def log_ratio_truth(x: Inputs) -> Truth:
    """Log-ratios of drawn tokens; their gradient to the policy's hidden states."""
    hidden, weight, ref_hidden, ref_weight, tokens = x.args
    z, zp = exact_logits(hidden, weight), exact_logits(ref_hidden, ref_weight)
    index = tokens[:CHECKED_ROWS, None]
    ratio = (z.log_softmax(-1) - zp.log_softmax(-1)).gather(-1, index)[:, 0]
    to_logits = -z.softmax(-1)
    to_logits.scatter_add_(-1, index, torch.ones_like(to_logits[:, :1]))
    to_logits *= x.upstream[0][:CHECKED_ROWS, None].double()
    return Truth((ratio,), to_logits @ weight.detach().double())


def one_head_truth(x: Inputs) -> Truth:
    hidden, weight, tokens = x.args
    return Truth(peers.naive_logprobs(exact_logits(hidden, weight), tokens[:CHECKED_ROWS]), None)


def drawn_truth(x: Inputs) -> Truth:
    logits, tokens = (z[:CHECKED_ROWS].detach() for z in x.args)
    return Truth(peers.naive_logprobs(logits.double(), tokens), None)


# --- floors


def moved(times: float) -> Callable[[Shape, Facts], float]:
    """Seconds to move the logits so many times."""
    return lambda s, facts: times * s.tokens * s.words * s.dtype.itemsize / float(facts["bandwidth"])


def multiplied(logits: int, to_hidden: int, to_weight: int) -> Callable[[Shape, Facts], float]:
    """Seconds of so many products of each kind, at the device's own rates."""

    def seconds(shape: Shape, facts: Facts) -> float:
        flops = 2.0 * shape.tokens * shape.hidden * shape.words
        kinds = (logits, "flops_logits"), (to_hidden, "flops_to_hidden"), (to_weight, "flops_to_weight")
        return sum(count * flops / float(facts[kind]) for count, kind in kinds)

    return seconds


# --- contenders


def any_upstream(**options: Any) -> Work:
    return per_token(vocab.linear_token_kl, **options)


def known(**options: Any) -> Work:
    return weighted(vocab.linear_weighted_kl, **options)


def log_ratio(**options: Any) -> Work:
    return per_token(lambda *args: vocab.linear_log_ratio(*args, **options)[0])


def naive_log_ratio(*args: Tensor) -> Tensor:
    """Of two cross entropies from logits in the dtype of the inputs."""
    hidden, weight, ref_hidden, ref_weight, tokens = args
    return peers.naive_head_logprobs(hidden, weight, tokens) - peers.naive_head_logprobs(ref_hidden, ref_weight, tokens)


def mean_of(function: Callable[..., Any]) -> Work:
    return only_total(lambda *args: function(*args))


FORMS: dict[str, Work] = {
    "kullback, weights known": known(),
    "kullback, weights known, float32": known(precision="float32"),
    "kullback, any upstream": any_upstream(),
    "kullback, any upstream, float32": any_upstream(precision="float32"),
}
HEAD_PEERS: dict[str, Work] = {
    "naive": per_token(peers.naive_head_kl),
    peers.TRL_DIVERGENCE.name: per_token(peers.TRL_DIVERGENCE.fn),
    peers.LIGER_CHUNKED.name: only_total(peers.LIGER_CHUNKED.fn),
    peers.LIGER_FUSED_LINEAR_JSD.name: only_total(peers.LIGER_FUSED_LINEAR_JSD.fn),
}
HEADS = Shape(TOKENS, WORDS, HALF, hidden=HIDDEN, noise=0.03)

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "one_head",
            "KL from hidden states, one head that is trained",
            HEADS,
            shared,
            shared_truth,
            FORMS | HEAD_PEERS,
            multiplied(2, 1, 1),
            "two products of logits, one to the hidden states, one to the head",
        ),
        Part(
            "kl",
            "Token KL from logits",
            Shape(TOKENS, WORDS, HALF),
            pair,
            pair_truth,
            {
                "kullback, triton": per_token(vocab.token_kl, backend="triton"),
                "kullback, eager": per_token(vocab.token_kl, backend="eager"),
                "naive": per_token(peers.naive_kl),
                "torch.compile of naive": per_token(peers.compiled(peers.naive_kl)),
                peers.LIGER_KL_DIV.name: only_total(peers.LIGER_KL_DIV.fn),
                peers.LIGER_JSD.name: only_total(peers.LIGER_JSD.fn),
            },
            moved(5),
            "logits read four times, gradient written once",
        ),
        Part(
            "frozen_head",
            "KL from hidden states, one head that is frozen",
            HEADS,
            frozen,
            shared_truth,
            FORMS | {name: HEAD_PEERS[name] for name in ("naive", peers.TRL_DIVERGENCE.name)},
            multiplied(2, 1, 0),
            "two products of logits, one to the hidden states",
        ),
        Part(
            "log_ratio",
            "Log-ratios of drawn tokens from hidden states, one head that is frozen",
            HEADS,
            shared_and_tokens,
            log_ratio_truth,
            {
                "kullback": log_ratio(),
                "kullback, float32": log_ratio(precision="float32"),
                "naive": per_token(naive_log_ratio),
            },
            multiplied(2, 1, 0),
            "two products of logits, one to the hidden states",
            relative=False,
        ),
        Part(
            "head_logprobs",
            "Log-prob and entropy from hidden states and a head",
            Shape(TOKENS, WORDS, HALF, hidden=HIDDEN),
            one_head,
            one_head_truth,
            {
                "kullback, any upstream": per_token(vocab.linear_token_logprobs, entropy=True),
                "naive": per_token(lambda h, w, y: peers.naive_logprobs(h @ w.T, y)),
            },
            multiplied(1, 1, 1),
            "one product of logits, one to the hidden states, one to the head",
            relative=False,
        ),
        Part(
            "logprobs",
            "Log-prob and entropy from logits",
            Shape(TOKENS, WORDS, HALF),
            lambda shape: uniform(peers.drawn(shape)),
            drawn_truth,
            {
                "kullback, triton": per_token(vocab.token_logprobs, entropy=True, backend="triton"),
                "naive": per_token(peers.naive_logprobs),
                peers.TRL_KERNEL.name: per_token(peers.TRL_KERNEL.fn),
                "torch.compile of naive": per_token(peers.compiled(peers.naive_logprobs)),
            },
            moved(3),
            "logits read twice, gradient written once",
            relative=False,
        ),
        Part(
            "odd_words",
            "KL from hidden states, one head that is trained, of an odd number of words",
            replace(HEADS, words=50257),
            shared,
            shared_truth,
            {
                name: (FORMS | HEAD_PEERS)[name]
                for name in ("kullback, weights known", "kullback, any upstream", "naive")
            },
            multiplied(2, 1, 1),
            "two products of logits, one to the hidden states, one to the head",
        ),
        Part(
            "two_heads",
            "KL from hidden states and two heads",
            Shape(TOKENS, WORDS, HALF, hidden=HIDDEN),
            lambda shape: uniform(peers.heads(shape)),
            shared_truth,
            {
                "kullback, weights known": known(),
                "kullback, any upstream": any_upstream(),
                "naive": HEAD_PEERS["naive"],
            },
            multiplied(2, 1, 1),
            "two products of logits, one to the hidden states, one to the head",
        ),
    )
}
