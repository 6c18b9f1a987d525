"""Errors of small KLs from hidden states where both models have one head, against float64 on the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks import vocab_peers as peers
from benchmarks.measure import markdown
from kullback import vocab

SETTINGS = ((3, 0), (3, 25), (6, 0), (6, 25))
"""Standard deviation of the logits, and an offset that all words share, as real heads have."""
APART = (3e-3, 3e-2)
"""Of the hidden states, whose standard deviation is 1."""

Kl = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor]]
"""(hidden, head, the reference's hidden states) → the KLs, if told, and the gradient of their mean to the first."""


@dataclass(frozen=True)
class Trial:
    """Hidden states of both models and their head, in bfloat16; the KLs and the gradient of their mean, in float64."""

    hidden: Tensor
    weight: Tensor
    ref_hidden: Tensor
    kl: Tensor
    gradient: Tensor


@cache
def trial(std: float, offset: float, apart: float, quick: bool) -> Trial:
    """96 tokens, 32,768 words, hidden states of 512."""
    tokens, words, size = (48, 4096, 128) if quick else (96, 32768, 512)
    generator = torch.Generator().manual_seed(2)
    along = torch.ones(size) / size**0.5
    weight = torch.randn(words, size, generator=generator) * (std / size**0.5) + along * (offset / 5)
    hidden = torch.randn(tokens, size, generator=generator) + (along * 5 if offset else 0)
    h, w = hidden.bfloat16(), weight.bfloat16()
    r = (h.float() + apart * torch.randn(tokens, size, generator=generator)).bfloat16()
    policy, reference = h.double() @ w.double().T, r.double() @ w.double().T
    log_q, log_p = policy.log_softmax(-1), reference.log_softmax(-1)
    kl = peers.exact_kl(policy, reference)
    gradient = (log_q.exp() * (log_q - log_p - kl[:, None])) @ w.double() / tokens
    return Trial(h, w, r, kl, gradient)


def differentiated(function: Callable[..., Tensor], told: bool = True) -> Kl:
    """Of KLs, or of their mean where no others are told; the gradient in float32."""

    def kl(hidden: Tensor, weight: Tensor, ref_hidden: Tensor) -> tuple[Tensor | None, Tensor]:
        leaf = hidden.clone().requires_grad_()
        found = function(leaf, weight, ref_hidden, weight)
        (gradient,) = torch.autograd.grad(found.mean(), leaf)
        return found.detach() if told else None, gradient

    return kl


def ours(precision: Any) -> Kl:
    """``linear_token_kl``, from float32 copies of the inputs so that the gradient is not rounded at the end."""
    kl = differentiated(lambda *args: vocab.linear_token_kl(*args, precision=precision))
    return lambda *args: kl(*(x.float() for x in args))


WAYS: dict[str, Kl] = {
    "kullback, float32": ours("float32"),
    "kullback, mixed": ours("mixed"),
    "kullback, bfloat16": ours("bfloat16"),
    "naive, bfloat16 logits": differentiated(peers.naive_head_kl),
    "naive, float32 logits": lambda *args: differentiated(peers.naive_head_kl)(*(x.float() for x in args)),
    peers.TRL_DIVERGENCE.name: differentiated(peers.TRL_DIVERGENCE.fn),
    peers.LIGER_CHUNKED.name: differentiated(peers.LIGER_CHUNKED.fn, told=False),
}


def table(quick: bool = False) -> str:
    """As Markdown: the mean, the worst token and the gradient of every way at every setting."""
    columns, cells = ["logit sd, offset: KL, nats"], {name: [name] for name in WAYS}
    for std, offset in SETTINGS:
        for apart in APART:
            exact = trial(std, offset, apart, quick)
            columns.append(f"{std}, {offset}: {float(exact.kl.mean()):.1e}")
            for name, way in WAYS.items():
                cells[name].append(_errors(way, exact))
    size = "48 tokens, 4,096 words, hidden 128" if quick else "96 tokens, 32,768 words, hidden 512"
    text = (
        "Relative errors against float64 on the same bfloat16 inputs: of the mean KL / of the worst token / of the "
        "gradient to the hidden states (norm)."
    )
    return f"### Small KLs from hidden states, one head: {size}\n\n{text}\n\n{markdown(columns, list(cells.values()))}"


def _errors(way: Kl, exact: Trial) -> str:
    try:
        kl, gradient = way(exact.hidden, exact.weight, exact.ref_hidden)
    except Exception as error:
        return f"did not run: {type(error).__name__}"
    told = ["–", "–"]
    if kl is not None:
        kl = kl.double()
        mean, worst = kl.mean() / exact.kl.mean() - 1, ((kl - exact.kl) / exact.kl).abs().max()
        told = [f"{float(mean):+.1e}", f"{float(worst):.1e}"]
    off = float((gradient.double() - exact.gradient).norm() / exact.gradient.norm())
    return " / ".join([*told, f"{off:.1e}"])
