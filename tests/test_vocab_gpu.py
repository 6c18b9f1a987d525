"""On a GPU: every kernel and every form against float64 on the same device. Skipped where there is none."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor
from vocab_truth import WAYS

from kullback import vocab
from kullback.vocab import heads, products
from kullback.vocab.shared import same_head

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),
]
TOKENS, WORDS, HIDDEN = 48, 9001, 256
HALF = torch.bfloat16
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, HALF, torch.float16], ids=str)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def ids() -> Tensor:
    return torch.arange(TOKENS, device="cuda") * 37 % WORDS


def one_head(dtype: torch.dtype = HALF, apart: float = 1e-2) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of two models about 5e-4 nats apart, and their head."""
    hidden = numbers(TOKENS, HIDDEN)
    other = hidden + apart * numbers(TOKENS, HIDDEN, seed=1)
    return hidden.to(dtype), (3 * HIDDEN**-0.5 * numbers(WORDS, HIDDEN, seed=2)).to(dtype), other.to(dtype)


def naive(h: Tensor, w: Tensor, r: Tensor, rw: Tensor, way: dict[str, Any], **head: Any) -> Tensor:
    return truth.token_kl(truth.head_logits(h, w, **head), truth.head_logits(r, rw, **head), **way)


def relative(got: Tensor, want: Tensor) -> float:
    return float(((got.double() - want).abs() / want.abs()).max())


def norm(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


@every_dtype
@pytest.mark.parametrize("way", WAYS)
def test_divergences_of_logits(way: str, dtype: torch.dtype) -> None:
    z = 3 * numbers(TOKENS, WORDS)
    pair = z.to(dtype), (z + 0.1 * numbers(TOKENS, WORDS, seed=1)).to(dtype)
    got = truth.with_gradients(functools.partial(vocab.token_kl, backend="triton", **WAYS[way]), *pair, upstream=up())
    want = truth.true(functools.partial(truth.token_kl, **WAYS[way]), *pair, upstream=up())
    assert relative(got[0], want[0]) < 1e-5
    assert (got[0] >= 0).all()
    step = max(torch.finfo(dtype).eps, 1e-6)
    assert max(norm(a, b) for a, b in zip(got[1:], want[1:], strict=True)) < 2 * step


def up() -> Tensor:
    return truth.weights(TOKENS).cuda()


@every_dtype
@pytest.mark.parametrize("column", [0, 1], ids=["logprob", "entropy"])
def test_logprobs_and_entropies_of_logits(column: int, dtype: torch.dtype) -> None:
    z = (3 * numbers(TOKENS, WORDS)).to(dtype)
    ours = truth.one_of(vocab.token_logprobs, column, backend="triton")
    got = truth.with_gradients(lambda z: ours(z, ids()), z, upstream=up())
    want = truth.true(lambda z: truth.token_logprobs(z, ids())[..., column], z, upstream=up())
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=1e-5)
    assert norm(got[1], want[1]) < 2 * max(torch.finfo(dtype).eps, 1e-6)


BOUNDS = {  # worst token, mean, gradient; leaves in bfloat16 round their gradient by 2e-3
    "float32": (1e-5, 1e-5, 5e-3),
    "mixed": (1e-2, 1e-3, 6e-3),
    "bfloat16": (2e-2, 5e-3, 6e-2),
}


@pytest.mark.parametrize("rows", [16, 8192], ids=["three blocks of rows", "one"])
@pytest.mark.parametrize("form", ["token", "weighted"])
@pytest.mark.parametrize("precision", BOUNDS)
def test_one_head(precision: str, form: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "BLOCK_ROWS_ELSEWHERE", rows)
    workspace = 16 * WORDS * 6 if rows == 16 else None

    def kl(h: Tensor, w: Tensor, r: Tensor) -> Tensor:
        options = {"precision": precision, "workspace": workspace}
        if form == "token":
            return vocab.linear_token_kl(h, w, r, w.detach(), **options)
        total, each = vocab.linear_weighted_kl(h, w, r, w.detach(), up(), **options)
        return each + (total - total.detach()) / each.numel()

    tensors = one_head()
    upstream = torch.ones(TOKENS, device="cuda") if form == "weighted" else up()
    h, w, r = (x.detach().clone().requires_grad_() for x in tensors)
    value = kl(h, w, r.detach())
    value.backward(upstream)
    exact = [x.double().requires_grad_() for x in tensors[:2]]
    want = naive(*exact, tensors[2].double(), exact[1].detach(), {})
    want.backward(up().double())
    worst, mean, gradient = BOUNDS[precision]
    assert relative(value.detach(), want.detach()) < worst
    assert abs(float(value.double().mean() / want.mean()) - 1) < mean
    assert (value >= 0).all()
    assert max(norm(h.grad, exact[0].grad), norm(w.grad, exact[1].grad)) < gradient


@pytest.mark.parametrize("head", [{}, {"softcap": 5.0}, {"scale": 0.7, "softcap": 3.0}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_every_divergence_of_one_head_in_float32(way: str, head: dict[str, Any]) -> None:
    h, w, r = one_head(torch.float32)
    got = truth.with_gradients(lambda h, w, r: vocab.linear_token_kl(h, w, r, w, **WAYS[way], **head), h, w, r)
    want = truth.true(lambda h, w, r: naive(h, w, r, w, WAYS[way], **head), h, w, r)
    assert relative(got[0], want[0]) < 1e-5
    assert max(norm(a, b) for a, b in zip(got[1:], want[1:], strict=True)) < 1e-4


def test_two_heads_with_and_without_their_difference() -> None:
    h, w, r = one_head()
    rw = (w.float() + 1e-3 * numbers(WORDS, HIDDEN, seed=5)).to(HALF)
    want = naive(h.double(), w.double(), r.double(), rw.double(), {})
    assert relative(vocab.linear_token_kl(h, w, r, rw), want) < 1e-2
    prepared = w.float() - rw.float()
    got = vocab.linear_token_kl(h, w, r, rw, weight_difference=prepared, precision="float32")
    assert relative(got, want) < 1e-4


@pytest.mark.parametrize("field", range(5), ids=vocab.LogRatios._fields)
def test_log_ratios(field: int) -> None:
    h, w, r = one_head()

    def written(h: Tensor, w: Tensor, r: Tensor) -> Tensor:
        a, b = (truth.head_logits(x, w).log_softmax(-1) for x in (h, r))
        of_q, of_p = (x.gather(-1, ids()[:, None])[:, 0] for x in (a, b))
        return (of_q - of_p, of_q, of_p, (a.exp() * (a - b)).sum(-1), -(a.exp() * a).sum(-1))[field]

    got = truth.with_gradients(lambda h, w, r: vocab.linear_log_ratio(h, w, r, w, ids())[field], h, w, r, upstream=up())
    want = truth.true(written, h, w, r, upstream=up())
    assert norm(got[0], want[0]) < (0.02 if field in (0, 3) else 1e-4)
    of = 3 if field == 2 else 1  # the reference's log-probs are no function of the policy's hidden states
    assert norm(got[of], want[of]) < 6e-3


def test_logprobs_of_a_head() -> None:
    h, w, _ = one_head()
    got = truth.with_gradients(lambda h, w: vocab.linear_token_logprobs(h, w, ids()), h, w, upstream=up())
    want = truth.true(lambda h, w: truth.token_logprobs(truth.head_logits(h, w), ids())[..., 0], h, w, upstream=up())
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=1e-5)
    assert max(norm(a, b) for a, b in zip(got[1:], want[1:], strict=True)) < 6e-3


def test_hostile_logits() -> None:
    low = torch.finfo(torch.float32).min
    rows = [
        ([1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]),
        ([0.0, -torch.inf, 1.0, 2.0], [1.0, -torch.inf, 0.0, 2.0]),
        ([0.0, low, 1.0, 2.0], [1.0, low, 0.0, 2.0]),
        ([3e4, 0.0, 1.0, 2.0], [3e4, 1.0, 0.0, 2.0]),
        ([0.0, 3.0, 1.0, 2.0], [1.0, -torch.inf, 0.0, 2.0]),
    ]
    q, p = (torch.tensor(z, device="cuda") for z in zip(*rows, strict=True))
    got, want = vocab.token_kl(q, p, backend="triton"), truth.token_kl(q.double(), p.double())
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-8)


def test_models_far_apart_by_difference() -> None:
    h, w, r = one_head(torch.float32, apart=30.0)
    want = naive(h.double(), w.double(), r.double(), w.double(), {})
    assert relative(vocab.linear_token_kl(h, w, r, w), want) < 1e-4


def test_products_keep_float32() -> None:
    a, b = numbers(64, 512), numbers(512, 96, seed=1, dtype=HALF)
    want = a.double() @ b.double()
    assert norm(products.matmul(a, b), want) < 1e-4
    assert norm(products.matmul(a.to(HALF), b), a.to(HALF).double() @ b.double()) < 1e-6
    total = torch.zeros(64, 96, device="cuda", dtype=HALF)
    three = products.total(total, torch.float32, 3)
    for _ in range(3):
        three.add(a.to(HALF), b)
    three.finish()
    assert norm(total, 3 * (a.to(HALF).double() @ b.double())) < 4e-3


def test_equal_heads_are_found_by_value() -> None:
    _, w, _ = one_head()
    assert same_head(w, w.clone())
    other = w.clone()
    other[-1, -1] += 1
    assert not same_head(w, other)


@pytest.mark.parametrize("words", [8999, 9001, 9008], ids=lambda n: f"{n} words")
@pytest.mark.parametrize("form", ["token", "weighted"])
def test_odd_vocabularies(form: str, words: int) -> None:
    """Products are cut at the last even size."""
    h, w, r = one_head()
    w = w[:words].contiguous()
    values, grads = kl_and_gradients(form, h, w, r, workspace=16 * words * 6)
    exact = [x.double().requires_grad_() for x in (h, w)]
    want = naive(*exact, r.double(), exact[1].detach(), {})
    want.backward(up().double())
    assert relative(values, want.detach()) < 1e-2
    assert max(norm(a, b.grad) for a, b in zip(grads, exact, strict=True)) < 6e-3


def kl_and_gradients(form: str, *tensors: Tensor, workspace: int | None) -> tuple[Tensor, list[Tensor]]:
    h, w, r = (x.detach().clone().requires_grad_() for x in tensors)
    if form == "token":
        values = vocab.linear_token_kl(h, w, r.detach(), w.detach(), workspace=workspace)
        values.backward(up())
    else:
        total, values = vocab.linear_weighted_kl(h, w, r.detach(), w.detach(), up(), workspace=workspace)
        total.backward()
    return values.detach(), [h.grad, w.grad]


def test_held_gradients_are_those_that_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows' gradients to the logits in one product, or block by block in a float32 sum."""
    held = kl_and_gradients("weighted", *one_head(), workspace=16 * WORDS * 6)
    monkeypatch.setattr("kullback.vocab.weighted_ops.worth_holding", lambda *_: False)
    added = kl_and_gradients("weighted", *one_head(), workspace=16 * WORDS * 6)
    assert torch.equal(held[0], added[0])
    assert max(norm(a, b.double()) for a, b in zip(held[1], added[1], strict=True)) < 3e-3
