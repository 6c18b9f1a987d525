"""The fused forms: from hidden states and LM heads, equal to the logits forms and without their logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor
from vocab_heads import (
    ENTROPY_WEIGHTS,
    IDS,
    MANY_BLOCKS,
    NUMBERS,
    TOKENS,
    WEIGHTS,
    assert_same,
    every_bias,
    every_block,
    every_kl,
    every_logprob,
    every_number,
    few_rows,  # noqa: F401 — a fixture of every test here
    numbers,
    token_kl,
    token_logprobs,
    true_kl,
    true_logprobs,
    two_heads,
)
from vocab_truth import COMPILER_WARNINGS, DTYPES, WAYS, peak_bytes, with_gradients

from kullback import vocab
from kullback.vocab import products

HALF, FULL = torch.bfloat16, torch.float32
pytestmark = COMPILER_WARNINGS


@every_block
@every_number
@every_kl
@pytest.mark.parametrize("way", WAYS)
def test_kls_are_those_of_the_logits(
    way: str, form: Any, written_out: Any, options: dict[str, Any], workspace: int | None
) -> None:
    options = {**options, **WAYS[way]}
    tensors = two_heads()
    got = with_gradients(functools.partial(form, workspace=workspace, **options), *tensors)
    assert_same(got, with_gradients(functools.partial(written_out, **options), *tensors))


@every_block
@every_bias
@every_kl
def test_biases(biases: str, form: Any, written_out: Any, workspace: int | None) -> None:
    tensors = two_heads(biases=biases)
    got = with_gradients(functools.partial(form, workspace=workspace, direction="forward"), *tensors)
    assert_same(got, with_gradients(functools.partial(written_out, direction="forward"), *tensors))


@every_block
@every_number
@every_logprob
@pytest.mark.parametrize("biases", ["neither", "both"])
def test_logprobs_are_those_of_the_logits(
    biases: str, form: Any, written_out: Any, options: dict[str, Any], workspace: int | None
) -> None:
    head = two_heads(biases=biases)[:3]
    got = with_gradients(functools.partial(form, workspace=workspace, **options), *head)
    assert_same(got, with_gradients(functools.partial(written_out, **options), *head))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_to_all_six_by_finite_differences(way: str) -> None:
    tensors = [x.requires_grad_() for x in two_heads(width=140)]
    weights = WEIGHTS.clone().requires_grad_()
    options = {**WAYS[way], **NUMBERS["all"], "workspace": MANY_BLOCKS}
    assert torch.autograd.gradcheck(functools.partial(token_kl, **options), tensors, fast_mode=True)
    h, w, b, rh, rw, rb = tensors
    assert torch.autograd.gradcheck(
        lambda weights, *_: vocab.linear_weighted_kl(h, w, rh, rw, weights, bias=b, ref_bias=rb, **options)[0],
        [weights, *tensors],
        fast_mode=True,
    )


def test_gradients_of_logprobs_by_finite_differences() -> None:
    head = [x.requires_grad_() for x in two_heads()[:3]]
    both = [x.clone().requires_grad_() for x in (WEIGHTS, ENTROPY_WEIGHTS)]
    options = {**NUMBERS["all"], "workspace": MANY_BLOCKS}
    assert torch.autograd.gradcheck(functools.partial(token_logprobs, **options), head, fast_mode=True)
    h, w, b = head
    assert torch.autograd.gradcheck(
        lambda first, second, *_: vocab.linear_weighted_logprobs(
            h, w, IDS, first, entropy_weights=second, bias=b, **options
        )[0],
        [*both, *head],
        fast_mode=True,
    )


def test_a_weighted_sum_shows_the_divergences_it_sums() -> None:
    h, w, b, rh, rw, rb = two_heads()
    total, shown = vocab.linear_weighted_kl(
        h.requires_grad_(), w, rh, rw, WEIGHTS.view(TOKENS), bias=b, ref_bias=rb, workspace=MANY_BLOCKS
    )
    torch.testing.assert_close(shown, true_kl(h, w, b, rh, rw, rb).detach(), rtol=1e-12, atol=1e-14)
    assert total.item() == pytest.approx(float(WEIGHTS @ shown), rel=1e-13)
    assert not shown.requires_grad
    _, logprobs, entropies = vocab.linear_weighted_logprobs(h, w, IDS, WEIGHTS, bias=b)
    want = true_logprobs(h, w, b).detach()
    torch.testing.assert_close(torch.stack([logprobs, entropies], dim=-1), want, rtol=1e-12, atol=1e-14)
    assert not logprobs.requires_grad
    assert not entropies.requires_grad


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_weights_of_any_dtype(dtype: torch.dtype) -> None:
    mask = torch.arange(TOKENS) % 3 > 0
    h, w, _, rh, rw, _ = two_heads(torch.float32)

    def of(weights: Tensor) -> list[list[Tensor]]:
        return [
            with_gradients(lambda h, w: vocab.linear_weighted_kl(h, w, rh, rw, weights)[0], h, w),
            with_gradients(
                lambda h, w: vocab.linear_weighted_logprobs(h, w, IDS, weights, entropy_weights=weights)[0], h, w
            ),
        ]

    for got, want in zip(of(mask.to(dtype)), of(mask.float()), strict=True):
        assert_same([x.float() for x in got], want, rtol=1e-6)


@every_kl
@every_block
def test_only_what_needs_a_gradient_gets_one(form: Any, written_out: Any, workspace: int | None) -> None:
    """Whatever of the six is frozen, the others' gradients stay the same."""
    tensors = two_heads(torch.float32)
    _, *whole = with_gradients(functools.partial(form, workspace=workspace), *tensors)
    for trained in [(0,), (1,), (2,), (0, 1), (3,), (4,), (5,), (0, 3), (1, 4, 5)]:
        leaves = [x.clone().requires_grad_(i in trained) for i, x in enumerate(tensors)]
        value = form(*leaves, workspace=workspace)
        value.backward(truth.weights(*value.shape))
        for i, (leaf, want) in enumerate(zip(leaves, whole, strict=True)):
            assert leaf.grad is None if i not in trained else torch.equal(leaf.grad, want), (trained, i)


@every_kl
def test_one_head_for_both_models_gets_both_gradients(form: Any, written_out: Any) -> None:
    h, w, b, *_ = two_heads()
    rh = h.roll(1, dims=0)
    got, want = (
        with_gradients(lambda h, w, b, rh, f=f: f(h, w, b, rh, w, b), h, w, b, rh) for f in (form, written_out)
    )
    assert_same(got, want)


@every_kl
def test_equal_models_are_at_exactly_zero(form: Any, written_out: Any) -> None:
    h, w, b, *_ = two_heads(torch.float32)
    for x in with_gradients(functools.partial(form, workspace=MANY_BLOCKS), h, w, b, h, w, b):
        assert (x == 0).all()


def test_zero_weights_silence_infinite_tokens() -> None:
    h, w, _, rh, rw, _ = two_heads(torch.float32)
    rw[3], rh[:, 0] = 0.0, torch.arange(TOKENS) % 2 * 10.0
    rw[3, 0] = -3e38  # −inf for every other token
    alive = torch.arange(TOKENS) % 2 == 0
    weights = alive / alive.sum()

    def total(h: Tensor, w: Tensor, at: Any = slice(None), workspace: int | None = MANY_BLOCKS) -> Tensor:
        return vocab.linear_weighted_kl(h[at], w, rh[at], rw, weights[at], workspace=workspace)[0]

    assert vocab.linear_token_kl(h, w, rh, rw).isinf().tolist() == (~alive).tolist()
    got = with_gradients(total, h, w)
    assert_same(got, with_gradients(functools.partial(total, at=alive), h, w), rtol=1e-5)
    assert all(x.isfinite().all() for x in got)

    def of_tokens(h: Tensor, w: Tensor, at: Any = slice(None)) -> Tensor:
        return vocab.linear_weighted_logprobs(h[at], w, never[at], weights[at])[0]

    never = torch.full((TOKENS,), 3)
    assert vocab.linear_token_logprobs(rh, rw, never).isneginf().tolist() == (~alive).tolist()
    of_all, of_alive = of_tokens(rh, rw), of_tokens(rh, rw, alive)
    torch.testing.assert_close(of_all, of_alive, rtol=1e-6, atol=0.0)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_block
@every_kl
@pytest.mark.parametrize("way", WAYS)
def test_kls_err_no_more_than_from_float32_logits(
    way: str, form: Any, written_out: Any, workspace: int | None, dtype: torch.dtype
) -> None:
    """Of the naive implementations the better: half-precision inputs, multiplied in float32."""
    tensors = two_heads(dtype)
    exact = functools.partial(written_out, **WAYS[way])
    got = with_gradients(functools.partial(form, workspace=workspace, **WAYS[way]), *tensors)
    naive = with_gradients(lambda *xs: exact(*(x.float() for x in xs)), *tensors)
    assert got[0].dtype == torch.float32
    assert [x.dtype for x in got[1:]] == [x.dtype for x in tensors]
    floor = WAYS[way].get("skew", 0.0)  # terms as large as the share of the mixture cancel in the gradient
    truth.assert_errors(got, naive, truth.true(exact, *tensors), floor=floor)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_block
@every_logprob
def test_logprobs_err_no_more_than_from_float32_logits(
    form: Any, written_out: Any, workspace: int | None, dtype: torch.dtype
) -> None:
    head = two_heads(dtype)[:3]
    got = with_gradients(functools.partial(form, workspace=workspace), *head)
    naive = with_gradients(lambda *xs: written_out(*(x.float() for x in xs)), *head)
    truth.assert_errors(got, naive, truth.true(written_out, *head))


def nearby_bfloat16() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of two models 6e-5 nats apart and their head; logits of standard deviation 3."""
    hidden = numbers(32, 256)
    weight = (numbers(8192, 256, seed=1) * 3 / 16).bfloat16()
    return hidden.bfloat16(), (hidden + 3.1e-3 * numbers(32, 256, seed=2)).bfloat16(), weight


@pytest.mark.parametrize("weighted", [False, True], ids=["token", "weighted"])
def test_a_small_kl_of_bfloat16_hidden_states(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "half_is_fast", lambda: True)
    hidden, ref_hidden, weight = nearby_bfloat16()
    other = weight + torch.zeros_like(weight).index_fill(0, torch.tensor([0]), 2.0**-9)  # no head for both
    want = true_kl(*(x.double() if x is not None else None for x in (hidden, weight, None, ref_hidden, other, None)))
    assert 5e-5 < want.mean() < 7e-5

    def kl(precision: str) -> Tensor:
        if weighted:
            weights = torch.full((len(hidden),), 1 / len(hidden))
            total, each = vocab.linear_weighted_kl(hidden, weight, ref_hidden, other, weights, precision=precision)
            assert total.item() == pytest.approx(each.mean().item(), rel=1e-6)
            return each.double()
        return vocab.linear_token_kl(hidden, weight, ref_hidden, other, precision=precision).double()

    assert ((kl("float32") - want).abs() <= 0.02 * want).all()
    assert kl("bfloat16").mean() > 2 * want.mean()  # the rounding of logits adds about 2e-4


def test_rounded_logits_are_those_of_a_bfloat16_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "half_is_fast", lambda: True)
    hidden, _, weight = nearby_bfloat16()
    ids = torch.arange(32)
    got, widened = (vocab.linear_token_logprobs(hidden.to(d), weight, ids, precision="bfloat16") for d in (HALF, FULL))
    want = truth.token_logprobs((hidden @ weight.T).double(), ids)[:, 0]
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(got, widened)
    double = vocab.linear_token_logprobs(hidden.double(), weight.double(), ids, precision="bfloat16")
    torch.testing.assert_close(double, truth.token_logprobs(hidden.double() @ weight.double().T, ids)[:, 0])


# --- memory ----------------------------------------------------------------------------------------------------------

MEGABYTE = 1 << 20
LARGE = {"tokens": 1024, "vocab": 8192, "hidden": 32}
SMALL = 12 * MEGABYTE
"""What the kernels' own buffers, four of a megabyte and the formulas' fifteen of a quarter, and the numbers of each
token may take."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    [
        "token_kl",
        pytest.param("jensen_shannon", marks=pytest.mark.slow),
        pytest.param("weighted_kl", marks=pytest.mark.slow),
        "logprobs",
        "weighted_logprobs",
    ],
)
def test_tokens_times_vocabulary_is_never_held(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the rows of real blocks
    tokens, width, size = LARGE.values()
    q, p = ([numbers(tokens, size, seed=i).to(dtype), numbers(width, size, seed=i).to(dtype)] for i in (0, 1))
    ids, weights, workspace = torch.arange(tokens), torch.ones(tokens), 4 * MEGABYTE
    calls: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "token_kl": (lambda **o: vocab.linear_token_kl(*q, *p, **o), [*q, *p]),
        "jensen_shannon": (lambda **o: vocab.linear_token_kl(*q, *p, direction="jensen_shannon", **o), [*q, *p]),
        "weighted_kl": (lambda **o: vocab.linear_weighted_kl(*q, *p, weights, **o)[0], [*q, *p]),
        "logprobs": (lambda **o: sum(vocab.linear_token_logprobs(*q, ids, entropy=True, **o)), q),
        "weighted_logprobs": (
            lambda **o: vocab.linear_weighted_logprobs(*q, ids, weights, entropy_weights=weights, **o)[0],
            q,
        ),
    }
    call, leaves = calls[name]
    gradients = sum(x.requires_grad_().nbytes for x in leaves)
    if dtype == torch.bfloat16 and name.startswith("weighted"):
        gradients += sum(x.numel() for x in leaves if len(x) == width)  # added up beside it, as documented

    def peak(function: Callable[..., Tensor], **options: Any) -> int:
        return peak_bytes(lambda: torch.autograd.grad(function(**options).sum(), leaves))

    logits = 4 * tokens * width
    assert gradients + workspace + SMALL < logits
    assert peak(call, workspace=workspace) <= gradients + workspace + SMALL
    naive = {"logprobs": true_naive_logprobs, "weighted_logprobs": true_naive_logprobs}.get(name, true_naive_kl)
    assert peak(lambda: naive(*leaves)) > gradients + workspace + SMALL + logits


def true_naive_kl(*tensors: Tensor) -> Tensor:
    return truth.token_kl(truth.head_logits(*tensors[:2]), truth.head_logits(*tensors[2:]))


def true_naive_logprobs(*tensors: Tensor) -> Tensor:
    return truth.token_logprobs(truth.head_logits(*tensors), torch.arange(len(tensors[0])))


def test_a_frozen_head_costs_no_gradient_of_it() -> None:
    tokens, width, size = 8, 4096, 512
    hidden, weight = numbers(tokens, size).requires_grad_(), numbers(width, size)
    ids = torch.arange(tokens)
    for call in (
        lambda: vocab.linear_token_logprobs(hidden, weight, ids),
        lambda: vocab.linear_weighted_logprobs(hidden, weight, ids, torch.ones(tokens))[0],
    ):
        assert peak_bytes(lambda call=call: torch.autograd.grad(call().sum(), hidden)) < weight.nbytes / 2
