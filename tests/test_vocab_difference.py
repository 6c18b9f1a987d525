"""One head for both models: products with the difference of hidden states, and the log-ratios of drawn tokens."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor
from vocab_heads import (
    HIDDEN,
    IDS,
    MANY_BLOCKS,
    NUMBERS,
    TOKENS,
    WEIGHTS,
    WIDTH,
    assert_same,
    every_block,
    every_kl,
    every_number,
    few_rows,  # noqa: F401 — a fixture of every test here
    numbers,
    true_kl,
    two_heads,
)
from vocab_truth import COMPILER_WARNINGS, WAYS, with_gradients

from kullback import vocab
from kullback.errors import InputError, ShapeError
from kullback.vocab import formulas, pairs, products, shared
from kullback.vocab.shared import same_head

pytestmark = COMPILER_WARNINGS
SETTINGS = [(3, 0), (3, 25), (6, 0), (6, 25)]
"""Standard deviation of the logits, and a component that shifts all of them, as real heads have."""
APART = {4e-5: 3e-3, 4e-3: 3e-2}


def one_head(dtype: torch.dtype = torch.float64, apart: float = 0.3) -> list[Tensor]:
    """hidden, weight, bias, ref_hidden, weight, bias: one head."""
    h, w, b, *_ = two_heads(dtype)
    return [h, w, b, h + apart * numbers(TOKENS, HIDDEN, seed=9).to(dtype), w, b]


# --- the same numbers ------------------------------------------------------------------------------------------------


@every_block
@every_number
@every_kl
@pytest.mark.parametrize("way", WAYS)
def test_one_head_gives_the_divergences_of_the_logits(
    way: str, form: Any, written_out: Any, options: dict[str, Any], workspace: int | None
) -> None:
    options = {**options, **WAYS[way]}
    h, w, b, r, *_ = one_head()

    def of(f: Any, **more: Any) -> list[Tensor]:
        return with_gradients(lambda h, w, b, r: f(h, w, b, r, w, b, **options, **more), h, w, b, r)

    assert_same(of(form, workspace=workspace), of(written_out), rtol=1e-10)


@pytest.mark.parametrize("size", [1.0, 30.0], ids=["", "large logits"])
@pytest.mark.parametrize("apart", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("way", ["reverse", "forward"])
def test_models_near_and_far(way: str, apart: float, size: float) -> None:
    """In float32, no worse than naive on logits that float64 has multiplied."""
    h, w, _, r, *_ = one_head(apart=apart)
    h, r = h * size, r * size
    h, w, r = (x.float().double() for x in (h, w, r))
    got = vocab.linear_token_kl(h.float(), w.float(), r.float(), w.float(), **WAYS[way]).double()
    naive = truth.token_kl((h @ w.T).float(), (r @ w.T).float(), **WAYS[way]).double()
    want = true_kl(h, w, None, r, w, None, **WAYS[way])
    assert (got >= 0).all()
    assert ((got - want).abs() <= 1e-5 * want + 8 * (naive - want).abs().max() * (size > 1)).all()


@pytest.mark.parametrize("options", NUMBERS.values(), ids=NUMBERS)
@every_kl
@pytest.mark.parametrize("way", ["reverse", "forward", "jensen_shannon"])
def test_two_heads_with_their_difference_prepared(
    way: str, form: Any, written_out: Any, options: dict[str, Any]
) -> None:
    h, w, b, r, *_ = one_head()
    rw, rb = w + 0.1 * numbers(WIDTH, HIDDEN, seed=8).double(), b + 0.1
    options = {**options, **WAYS[way]}
    got = with_gradients(functools.partial(form, weight_difference=w - rw, workspace=1, **options), h, w, b, r, rw, rb)
    assert_same(got, with_gradients(functools.partial(written_out, **options), h, w, b, r, rw, rb), rtol=1e-10)


def test_a_prepared_difference_is_used() -> None:
    h, w, _, r, *_ = one_head()
    assert not torch.equal(vocab.linear_token_kl(h, w, r, w), vocab.linear_token_kl(h, w, r, w, weight_difference=w))
    with pytest.raises(ShapeError, match=r"weight_difference has shape \(2, 6\)"):
        vocab.linear_token_kl(h, w, r, w, weight_difference=w[:2])
    with pytest.raises(InputError, match="weight_difference holds"):
        vocab.linear_token_kl(h, w, r, w, weight_difference=torch.zeros_like(w, dtype=torch.int64))


@pytest.mark.parametrize("ban", [-torch.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("by", ["both", "reference", "policy"])
def test_words_that_a_bias_bans(by: str, ban: float) -> None:
    h, w, b, r, *_ = one_head(torch.float32)
    first, second = b.clone(), b.clone()
    for bias, banned in ((first, by != "reference"), (second, by != "policy")):
        if banned:
            bias[5:40] = ban
    got = vocab.linear_token_kl(h, w, r, w, bias=first, ref_bias=second).double()
    want = true_kl(*(x.double() for x in (h, w, first, r, w, second)))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_capped_differences_keep_their_digits(cap: float) -> None:
    z = torch.linspace(-300, 300, 97)[:, None] * torch.tensor([1e-3, 1.0])
    for x in (1e-6 * z.abs() + 1e-9, z, 2 * z, torch.full_like(z, 1e4), -z + 1):
        a, b = z.double() / cap, (z.double() - x.double()) / cap
        e = x.double() / cap
        want = cap * e.sinh() / (a.cosh() * (a - e).cosh()) if cap > 1 and x.abs().max() < 1e3 else None
        got = pairs.capped_difference(z.clone(), x.clone(), cap).double()
        assert got.isfinite().all()
        torch.testing.assert_close(got, cap * (a.tanh() - b.tanh()), rtol=1e-4, atol=1e-6 * cap)
        if want is not None:
            torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-30)


# --- precision -------------------------------------------------------------------------------------------------------


@functools.cache
def trial(sd: float, offset: float, apart: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head and the reference's hidden states in bfloat16; the KL, and its gradient to the first."""
    n, width, words = 48, 256, 8192
    along = torch.ones(width) / width**0.5
    w = numbers(words, width) * (sd / width**0.5) + along * (offset / 5)
    h = numbers(n, width, seed=1) + (along * 5 if offset else 0)
    h, w = h.bfloat16(), w.bfloat16()
    r = (h.float() + apart * numbers(n, width, seed=2)).bfloat16()
    z, zr = h.double() @ w.double().T, r.double() @ w.double().T
    log_q, log_p = z.log_softmax(-1), zr.log_softmax(-1)
    kl = (log_q.exp() * (torch.expm1(log_p - log_q) - (log_p - log_q))).sum(-1)
    return h, w, r, kl, (log_q.exp() * (log_q - log_p - kl[:, None])) @ w.double()


GOALS = {"float32": (1e-5, 1e-5, 1e-4), "mixed": (1e-2, 1e-3, 5e-3), "bfloat16": (0.2, 5e-3, 6e-2)}
"""Of the worst token, of the mean, and of the gradient to the hidden states."""


@pytest.mark.parametrize("fast", [False, True], ids=["widened", "in bfloat16"])
@pytest.mark.parametrize("precision", GOALS)
@pytest.mark.parametrize("kl", APART)
@pytest.mark.parametrize(("sd", "offset"), SETTINGS)
def test_errors_at_small_kls(
    sd: float, offset: float, kl: float, precision: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no two products have: their bfloat16 is off by 50% to 2,900% here."""
    monkeypatch.setattr(products, "half_is_fast", lambda: fast)
    h, w, r, want, gradient = trial(sd, offset, APART[kl])
    leaf = h.float().requires_grad_()
    got = vocab.linear_token_kl(leaf, w.float(), r.float(), w.float(), precision=precision)
    (found,) = torch.autograd.grad(got.sum(), leaf)
    got, (worst, mean, of_gradient) = got.detach(), GOALS[precision]
    assert (got >= 0).all()
    assert ((got.double() - want).abs() / want).max() < worst
    assert abs(float(got.double().mean() / want.mean()) - 1) < mean
    assert float((found.double() - gradient).norm() / gradient.norm()) < of_gradient


def test_two_products_of_bfloat16_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "half_is_fast", lambda: True)
    h, w, r, want, _ = trial(3, 25, APART[4e-5])
    other = w.clone()
    other[0, 0] += 1e-6  # the same number in bfloat16, but for one that is 2⁻⁷ off at most
    other[0, 0] = torch.nextafter(w[0, 0], torch.tensor(9.0, dtype=w.dtype))
    got = vocab.linear_token_kl(h, w, r, other, precision="bfloat16")
    assert got.mean() > 5 * want.mean()


def test_the_default_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    h, w, r, *_ = trial(3, 25, APART[4e-3])

    def default(*dtypes: torch.dtype) -> Tensor:
        return vocab.linear_token_kl(*(x.to(dtypes[0]) for x in (h, w, r, w)))

    exact, mixed = (vocab.linear_token_kl(h, w, r, w, precision=p) for p in ("float32", "mixed"))
    assert not torch.equal(exact, mixed)
    for fast in (False, True):
        monkeypatch.setattr(vocab.linear, "half_is_fast", lambda fast=fast: fast)
        assert torch.equal(default(torch.bfloat16), mixed if fast else exact)
        torch.testing.assert_close(default(torch.float32), exact, rtol=1e-5, atol=0.0)
    with pytest.raises(InputError, match="precision 'input' came, but it is 'float32', 'mixed', 'bfloat16' or None"):
        vocab.linear_token_kl(h, w, r, w, precision="input")


# --- log-ratios ------------------------------------------------------------------------------------------------------


def written_log_ratios(h: Tensor, w: Tensor, b: Tensor, r: Tensor, rw: Tensor, rb: Tensor, **options: Any) -> Tensor:
    temperature = options.pop("temperature", 1.0)
    a, c = ((truth.head_logits(*x, **options) / temperature).log_softmax(-1) for x in ((h, w, b), (r, rw, rb)))
    of_q, of_p = (x.gather(-1, IDS[:, None])[:, 0] for x in (a, c))
    kl, entropy = (a.exp() * (a - c)).sum(-1), -(a.exp() * a).sum(-1)
    return torch.stack([of_q - of_p, of_q, of_p, kl, entropy], dim=-1)


def log_ratios(h: Tensor, w: Tensor, b: Tensor, r: Tensor, rw: Tensor, rb: Tensor, **options: Any) -> Tensor:
    return torch.stack(vocab.linear_log_ratio(h, w, r, rw, IDS, bias=b, ref_bias=rb, **options), dim=-1)


@every_block
@every_number
@pytest.mark.parametrize("shared_head", [True, False], ids=["one head", "two heads"])
def test_log_ratios_are_those_of_the_logits(shared_head: bool, options: dict[str, Any], workspace: int | None) -> None:
    tensors = one_head() if shared_head else two_heads()
    got = with_gradients(functools.partial(log_ratios, workspace=workspace, **options), *tensors)
    assert_same(got, with_gradients(functools.partial(written_log_ratios, **options), *tensors), rtol=1e-9)


def test_log_ratios_by_finite_differences() -> None:
    tensors = [x.requires_grad_() for x in one_head()[:4]]

    def of(h: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        return log_ratios(h, w, b, r, w, b, workspace=MANY_BLOCKS, **NUMBERS["all"])

    assert torch.autograd.gradcheck(of, tensors, fast_mode=True)


def test_gradients_of_one_head_by_finite_differences() -> None:
    tensors = [x.requires_grad_() for x in one_head()[:4]]
    options = {"workspace": MANY_BLOCKS, **NUMBERS["all"]}

    def of(h: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        each = vocab.linear_token_kl(h, w, r, w, bias=b, ref_bias=b, **options)
        total, _ = vocab.linear_weighted_kl(h, w, r, w, WEIGHTS, bias=b, ref_bias=b, direction="forward", **options)
        return torch.cat([each, total[None]])

    assert torch.autograd.gradcheck(of, tensors, fast_mode=True)


@pytest.mark.parametrize("kl", APART)
def test_log_ratios_of_bfloat16_models_are_not_rounding(kl: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "half_is_fast", lambda: True)
    h, w, r, *_ = trial(3, 25, APART[kl])
    drawn = torch.arange(len(h)) * 31
    a, b = ((x.double() @ w.double().T).log_softmax(-1) for x in (h, r))
    want = (a - b).gather(-1, drawn[:, None])[:, 0]
    got = vocab.linear_log_ratio(h, w, r, w, drawn, precision="bfloat16").log_ratio.double()
    rounded = ((h @ w.T).double().log_softmax(-1) - (r @ w.T).double().log_softmax(-1)).gather(-1, drawn[:, None])[:, 0]
    assert truth.rms(got - want) < 0.02 * truth.rms(want)
    assert truth.rms(rounded - want) > 0.3 * truth.rms(want)


def test_log_ratios_of_equal_models_are_0() -> None:
    h, w, *_ = one_head(torch.float32)
    found = vocab.linear_log_ratio(h, w, h.clone(), w.clone(), IDS)
    assert (found.log_ratio == 0).all()
    assert (found.token_kl == 0).all()
    assert torch.equal(found.logprobs, found.ref_logprobs)


# --- one head, found out ---------------------------------------------------------------------------------------------


def test_equal_heads_are_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    w = numbers(WIDTH, HIDDEN)
    other, compared = w.clone(), []
    equal = shared._equal
    monkeypatch.setattr(shared, "_equal", lambda *x: compared.append(x) or equal(*x))
    assert same_head(w, w)
    assert not compared
    assert all(same_head(w, other) for _ in range(3))
    assert len(compared) == 1
    other[-1, -1] += 1.0  # written to: looked at again
    assert not same_head(w, other)
    assert not same_head(w, other)
    assert len(compared) == 2
    assert not same_head(w, w[:-1])
    assert not same_head(w, w.double())
    assert same_head(w, w.detach())
    with torch.inference_mode():
        assert same_head(w.clone(), w.clone())


@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_a_head_that_an_optimizer_moves_is_not_taken_for_the_reference(way: dict[str, bool]) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(60, 8))
    ref_weight, hidden = weight.detach().clone(), torch.randn(5, 8)
    optimizer = torch.optim.AdamW([weight], lr=0.5, **way)
    assert vocab.linear_token_kl(hidden, weight, hidden, ref_weight).abs().max() < 1e-6
    weight.grad = torch.randn(60, 8)
    optimizer.step()
    found = vocab.linear_token_kl(hidden, weight, hidden, ref_weight)
    plain = vocab.token_kl(hidden @ weight.T, hidden @ ref_weight.T)
    assert float(plain.detach().min()) > 0.01
    assert torch.allclose(found, plain, rtol=1e-4)


def test_equal_heads_are_used_as_one() -> None:
    h, w, r, want, _ = trial(3, 25, APART[4e-5])
    got = vocab.linear_token_kl(h, w, r, w.clone(), precision="float32").double()
    assert ((got - want).abs() / want).max() < 1e-5


def test_far_apart_tokens_are_summed_around_the_normaliser() -> None:
    z = torch.tensor([[0.0, -80.0, -80.0], [0.0, 0.0, 0.0]])
    d = torch.tensor([[200.0, -150.0, 0.0], [1e-4, 0.0, 0.0]])
    for found in (formulas.pair_statistics(z, d, True), formulas.pair_statistics(z.double(), d.double(), True)):
        want = truth.token_kl(z.double(), (z - d).double())
        torch.testing.assert_close(found[:, 2].double(), want, rtol=1e-5, atol=0.0)


@pytest.mark.slow
@truth.needs_compiler
@pytest.mark.parametrize("apart", [3e-3, 3.0])
@pytest.mark.parametrize("way", ["reverse", "jensen_shannon"])
def test_compiled_difference_products(way: str, apart: float) -> None:
    h, w, _, r, *_ = one_head(torch.float32, apart=apart)
    got, want = (
        with_gradients(
            lambda h, w, r, b=backend: vocab.linear_token_kl(h, w, r, w, backend=b, **WAYS[way]),
            *(x.to(dtype) for x in (h, w, r)),
        )
        for backend, dtype in (("compile", torch.float32), ("eager", torch.float64))
    )
    for ours, theirs in zip(got, want, strict=True):
        assert truth.rms(ours.double() - theirs) < 1e-5 * truth.rms(theirs) + 1e-7
