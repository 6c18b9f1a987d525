"""Two heads, the four fused forms of them, and what these are, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor

from kullback import vocab
from kullback.vocab import heads

TOKENS, WIDTH, HIDDEN, REF_HIDDEN = 43, 300, 6, 9
ONE_BLOCK, MANY_BLOCKS = None, 1
"""Workspaces: all logits at once, or 128 columns (one row, where rows are kept whole) at a time."""


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of sixteen tokens, so that forty-three make three."""
    monkeypatch.setattr(heads, "BLOCK_ROWS", 16)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1000 * len(shape) + shape[-1]))


def two_heads(dtype: torch.dtype = torch.float64, biases: str = "both", width: int = WIDTH) -> list[Tensor | None]:
    """hidden, weight, bias of the policy; the same of a reference with hidden states of another size."""
    policy, reference = (numbers(TOKENS, n).to(dtype) for n in (HIDDEN, REF_HIDDEN))
    of_policy, of_reference = (numbers(width, n, seed=1).to(dtype) for n in (HIDDEN, REF_HIDDEN))
    bias, ref_bias = (numbers(width, seed=seed).to(dtype) for seed in (2, 3))
    return [
        *(policy, of_policy, bias if biases in ("both", "policy") else None),
        *(reference, of_reference, ref_bias if biases in ("both", "reference") else None),
    ]


IDS = torch.arange(TOKENS) * 37 % WIDTH
WEIGHTS, ENTROPY_WEIGHTS = truth.weights(TOKENS).double(), truth.weights(TOKENS).flip(0).double()


# The four functions and what they are, all of (hidden, weight, bias, …).


def token_kl(h: Tensor, w: Tensor, b: Tensor | None, rh: Tensor, rw: Tensor, rb: Tensor | None, **o: Any) -> Tensor:
    return vocab.linear_token_kl(h, w, rh, rw, bias=b, ref_bias=rb, **o)


def weighted_kl(h: Tensor, w: Tensor, b: Tensor | None, rh: Tensor, rw: Tensor, rb: Tensor | None, **o: Any) -> Tensor:
    return vocab.linear_weighted_kl(h, w, rh, rw, WEIGHTS.to(h.dtype), bias=b, ref_bias=rb, **o)[0]


def true_kl(
    h: Tensor,
    w: Tensor,
    b: Tensor | None,
    rh: Tensor,
    rw: Tensor,
    rb: Tensor | None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    **options: Any,
) -> Tensor:
    q, p = (truth.head_logits(*head, scale=scale, softcap=softcap) for head in ((h, w, b), (rh, rw, rb)))
    return truth.token_kl(q, p, **options)


def token_logprobs(h: Tensor, w: Tensor, b: Tensor | None, **o: Any) -> Tensor:
    return torch.stack(vocab.linear_token_logprobs(h, w, IDS, bias=b, entropy=True, **o), dim=-1)


def weighted_logprobs(h: Tensor, w: Tensor, b: Tensor | None, **o: Any) -> Tensor:
    each = WEIGHTS.to(h.dtype), ENTROPY_WEIGHTS.to(h.dtype)
    return vocab.linear_weighted_logprobs(h, w, IDS, each[0], entropy_weights=each[1], bias=b, **o)[0]


def true_logprobs(
    h: Tensor, w: Tensor, b: Tensor | None, *, scale: float = 1.0, softcap: float | None = None, **options: Any
) -> Tensor:
    return truth.token_logprobs(truth.head_logits(h, w, b, scale=scale, softcap=softcap), IDS, **options)


def sum_of_kl(*args: Any, **options: Any) -> Tensor:
    value = true_kl(*args, **options)
    return (WEIGHTS.to(value.dtype) * value).sum()


def sum_of_logprobs(*args: Any, **options: Any) -> Tensor:
    value = true_logprobs(*args, **options)
    return (torch.stack([WEIGHTS, ENTROPY_WEIGHTS], dim=-1).to(value.dtype) * value).sum()


KLS = {"token": (token_kl, true_kl), "weighted": (weighted_kl, sum_of_kl)}
LOGPROBS = {"token": (token_logprobs, true_logprobs), "weighted": (weighted_logprobs, sum_of_logprobs)}
every_kl = pytest.mark.parametrize(("form", "written_out"), KLS.values(), ids=KLS)
every_logprob = pytest.mark.parametrize(("form", "written_out"), LOGPROBS.values(), ids=LOGPROBS)
every_block = pytest.mark.parametrize("workspace", [ONE_BLOCK, MANY_BLOCKS], ids=["one block", "many blocks"])

NUMBERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.5},
    "softcap": {"softcap": 2.0},
    "temperature": {"temperature": 1.7},
    "all": {"scale": 1.5, "softcap": 3.0, "temperature": 0.8},
}
every_number = pytest.mark.parametrize("options", NUMBERS.values(), ids=NUMBERS)
every_bias = pytest.mark.parametrize("biases", ["neither", "policy", "reference", "both"])


def assert_same(got: list[Tensor], want: list[Tensor], rtol: float = 1e-11) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours, theirs, rtol=rtol, atol=rtol * float(theirs.abs().amax()) if theirs.numel() else 0.0
        )
