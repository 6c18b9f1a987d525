"""vocab.token_kl and vocab.token_logprobs of any shape and dtype, in little memory, and what wrong calls say."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import vocab_truth as truth
from torch import Tensor
from vocab_truth import (
    COMPILER_WARNINGS,
    WAYS,
    WIDTH,
    close_pair,
    every_dtype,
    every_way,
    ids,
    one_of,
    peak_bytes,
    small_blocks,  # noqa: F401 — a fixture of every test here
    with_gradients,
)

from kullback import vocab
from kullback.errors import InputError, MissingPackageError, ShapeError, install_line
from kullback.vocab import backends, formulas

pytestmark = COMPILER_WARNINGS
NAN = math.nan


# --- shapes, dtypes and memory ---------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "one token": lambda z: z[0],
    "(batch, time, vocab)": lambda z: z[:6].view(2, 3, WIDTH),
    "(a, b, c, vocab)": lambda z: z[:6].view(1, 2, 3, WIDTH),
    "without the last token": lambda z: z[:6].view(2, 3, WIDTH)[:, :-1],
    "every other token": lambda z: z[::2],
    "time before batch": lambda z: z[:6].view(2, 3, WIDTH).transpose(0, 1),
    "some words": lambda z: z[:, 3:40],
    "every other word": lambda z: z[:, ::2],
    "words first": lambda z: z.T.contiguous().T,
    "one row for all": lambda z: z[:1].expand(5, WIDTH),
    "no token": lambda z: z[:0],
    "no batch": lambda z: z[:0].view(0, 3, WIDTH),
    "no time": lambda z: z[:0].view(3, 0, WIDTH),
    "one word": lambda z: z[:, :1],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_shape_and_stride(view: Callable[[Tensor], Tensor]) -> None:
    pair = [view(z.double()) for z in close_pair()]
    tokens = torch.zeros(pair[0].shape[:-1], dtype=torch.long)
    for way, options in WAYS.items():
        of = [with_gradients(functools.partial(f.token_kl, **options), *pair) for f in (vocab, truth)]
        for got, want in zip(*of, strict=True):
            assert got.shape == want.shape, way
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)
    for column in (0, 1):
        of = [with_gradients(one_of(f.token_logprobs, column), pair[0], tokens) for f in (vocab, truth)]
        for got, want in zip(*of, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)


def test_gradients_reach_what_a_view_was_made_of() -> None:
    whole = close_pair(12, 9)[0].view(3, 4, 9).requires_grad_()
    vocab.token_kl(whole[:, :-1], whole[:, 1:].detach()).sum().backward()
    assert (whole.grad[:, :-1] != 0).all()
    assert (whole.grad[:, -1] == 0).all()


@pytest.mark.parametrize(
    ("policy", "reference", "result"),
    [
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float16", "float16", "float32"),
        ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float64", "float64", "float64"),
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("bfloat16", "float64", "float64"),
    ],
)
@every_way
def test_dtypes(policy: str, reference: str, result: str, way: str) -> None:
    """A result is computed in the dtype it has, and a gradient has the dtype of what it is to."""
    pair = [z.to(getattr(torch, name)) for z, name in zip(close_pair(), (policy, reference), strict=True)]
    got, want = (
        f(functools.partial(m.token_kl, **WAYS[way]), *pair) for f, m in ((with_gradients, vocab), (truth.true, truth))
    )
    assert got[0].dtype == getattr(torch, result)
    for grad, z, right in zip(got[1:], pair, want[1:], strict=True):
        assert grad.dtype == z.dtype
        torch.testing.assert_close(grad, right.to(z.dtype), rtol=1e-2 if z.itemsize < 4 else 1e-4, atol=1e-5)
    tolerance = 1e-12 if result == "float64" else 1e-5
    torch.testing.assert_close(got[0].double(), want[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tokens_of_any_integer_dtype(dtype: torch.dtype) -> None:
    logits = close_pair()[0]
    assert torch.equal(vocab.token_logprobs(logits, ids().to(dtype)), vocab.token_logprobs(logits, ids()))


def test_under_inference_mode() -> None:
    with torch.inference_mode():
        q, p = close_pair()
        assert not vocab.token_kl(q, p).requires_grad
        assert torch.equal(vocab.token_kl(q, p), vocab.token_kl(*close_pair()))


MEGABYTE = 1 << 20


@every_dtype
@pytest.mark.parametrize("strided", [False, True], ids=["whole", "without the last token"])
def test_nothing_of_the_logits_size_is_held_but_the_gradient(dtype: torch.dtype, strided: bool) -> None:
    batch, time, width = 8, 65, 20_000
    q, p = (torch.randn(batch, time, width, dtype=dtype) for _ in range(2))
    if strided:
        q, p = q[:, :-1], p[:, :-1]
    q.requires_grad_()
    tokens = torch.zeros(q.shape[:-1], dtype=torch.long)
    entire = q.numel() * q.itemsize
    assert entire > 16 * MEGABYTE

    def peak(call: Callable[[], Tensor]) -> int:
        return peak_bytes(lambda: torch.autograd.grad(call().sum(), q)) - entire

    assert peak(lambda: vocab.token_kl(q, p)) <= 8 * MEGABYTE
    assert peak(lambda: sum(vocab.token_logprobs(q, tokens, entropy=True))) <= 8 * MEGABYTE
    assert peak(lambda: truth.token_kl(q, p)) > entire + 8 * MEGABYTE


# --- wrong calls -----------------------------------------------------------------------------------------------------

Z, TWO = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: vocab.token_kl(Z, Z[:1]), ShapeError, "logits has shape (2, 3) and ref_logits (1, 3)"),
        (lambda: vocab.token_kl(Z, Z[:, :2]), ShapeError, "over one vocabulary"),
        (lambda: vocab.token_kl(Z[0, 0], Z[0, 0]), ShapeError, "(…, vocab)"),
        (lambda: vocab.token_kl(Z.long(), Z), InputError, "logits holds torch.int64, but floating-point"),
        (lambda: vocab.token_kl(Z, Z.bool()), InputError, "ref_logits holds torch.bool, but floating-point"),
        (lambda: vocab.token_kl(Z, Z, direction="k3"), InputError, "direction 'k3' came, but it is 'reverse'"),
        (lambda: vocab.token_kl(Z, Z, skew=0), InputError, "skew=0 came, but the weight of the other model"),
        (lambda: vocab.token_kl(Z, Z, skew=1.1), InputError, "above 0 and at most 1"),
        (lambda: vocab.token_kl(Z, Z, skew=NAN), InputError, "skew=nan came"),
        (
            lambda: vocab.token_kl(Z, Z, direction="jensen_shannon", skew=0.5),
            InputError,
            "skew=0.5 came with direction='jensen_shannon', which is between both models already",
        ),
        (lambda: vocab.token_kl(Z, Z, temperature=0), InputError, "temperature=0 came, but it must be above 0"),
        (lambda: vocab.token_kl(Z, Z, temperature=NAN), InputError, "temperature=nan came"),
        (lambda: vocab.token_kl(Z, Z, backend="cuda"), InputError, "there are auto, eager, compile, triton"),
        (lambda: vocab.token_logprobs(Z, TWO[:1]), ShapeError, "tokens has shape (1,), but logits (2, 3) needs one"),
        (lambda: vocab.token_logprobs(Z, TWO[:, None]), ShapeError, "one token a row"),
        (lambda: vocab.token_logprobs(Z[0, 0], TWO[0]), ShapeError, "(…, vocab)"),
        (lambda: vocab.token_logprobs(Z.long(), TWO), InputError, "logits holds torch.int64"),
        (lambda: vocab.token_logprobs(Z, TWO.float()), InputError, "tokens holds torch.float32, but"),
        (lambda: vocab.token_logprobs(Z, TWO + 2), InputError, "tokens holds 3, but the vocabulary has the ids 0 to 2"),
        (lambda: vocab.token_logprobs(Z, TWO - 100), InputError, "give padding any of them and leave it out"),
        (lambda: vocab.token_logprobs(Z, TWO, temperature=-1), InputError, "temperature=-1 came"),
        (lambda: vocab.token_logprobs(Z, TWO, backend="cuda"), InputError, "there are auto, eager, compile, triton"),
        (lambda: vocab.token_logprobs(Z, TWO, vocab_start=3), InputError, "vocab_start=3 came"),
    ],
)
def test_wrong_calls_say_what_to_do(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_triton_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"triton is needed for this and is not installed"):
        vocab.token_kl(Z, Z, backend="triton")
    assert backends.backend_for(None, torch.device("cuda"), 1) == "eager"


def test_without_torch_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; import kullback.vocab"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"torch is needed for this and is not installed: {install_line('torch')}" in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_first_words_that_differ_by_more_than_all(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are summed again around the mean of all words, and not by the formulas, which are five times as slow."""
    monkeypatch.setattr(formulas, "pair_statistics", None)
    made = torch.Generator().manual_seed(0)
    q, noise = (torch.randn(6, 5000, generator=made, dtype=dtype) for _ in range(2))
    q[:, :1024] -= 8
    p = q + 7.3 + 0.01 * noise
    p[:, :1024] += 0.15
    log_q, log_p = (x.double().log_softmax(-1) for x in (q, p))
    want = (log_q.exp() * (log_q - log_p)).sum(-1)
    torch.testing.assert_close(vocab.token_kl(q, p, backend="eager").double(), want, rtol=1e-5, atol=0)
