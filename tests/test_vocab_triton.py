"""The Triton kernels: in Triton's interpreter on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import math
import re
import sys

import pytest
import torch
from torch import Tensor

from kullback import vocab
from kullback.errors import install_line

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is for Linux")
from kullback.vocab import triton_kernels  # noqa: E402

INF = math.inf
WAYS = (
    {},
    {"direction": "forward"},
    {"direction": "jensen_shannon"},
    {"skew": 0.3},
    {"skew": 0.3, "direction": "forward", "temperature": 2.0},
)
HOSTILE = (
    ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ([1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]),
    ([0.0, -INF, 1.0, 2.0], [1.0, -INF, 0.0, 2.0]),
    ([0.0, -INF, 1.0, 2.0], [1.0, 3.0, 0.0, 2.0]),
    ([0.0, 3.0, 1.0, 2.0], [1.0, -INF, 0.0, 2.0]),
    ([-INF, -INF, -INF, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ([-INF, -INF, -INF, -INF], [0.0, 0.0, 0.0, 0.0]),
)


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that every row has several, and few enough rows that each is split."""
    monkeypatch.setattr(triton_kernels, "BLOCK", 64)
    monkeypatch.setattr(triton_kernels, "PROGRAMS", 20)


pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")]


def logits(tokens: int, width: int, apart: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens + width)
    q = 3 * torch.randn(tokens, width, generator=generator)
    p = q + apart * torch.randn(tokens, width, generator=generator)
    return tuple(x.to(DEVICE, dtype).requires_grad_() for x in (q, p))


def with_gradients(q: Tensor, p: Tensor, backend: str, double: bool, **way: object) -> list[Tensor]:
    a, b = (x.double() if double else x for x in (q, p))
    value = vocab.token_kl(a, b, backend=backend, **way)
    upstream = torch.linspace(0.5, 2, len(value), device=DEVICE, dtype=value.dtype)
    return [value, *torch.autograd.grad((value * upstream).sum(), (q, p))]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(1, 2), (7, 123), pytest.param(5, 503, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "apart", "rtol"),
    [
        (torch.float32, 0.01, 1e-4),
        pytest.param(torch.float32, 2.0, 5e-6, marks=pytest.mark.slow),
        (torch.bfloat16, 2.0, 8e-3),
    ],
)
def test_the_kl_is_the_eager_one(
    dtype: torch.dtype, apart: float, rtol: float, tokens: int, width: int, way: dict[str, object]
) -> None:
    q, p = logits(tokens, width, apart, dtype)
    ours = with_gradients(q, p, "triton", False, **way)
    truth = with_gradients(q, p, "eager", True, **way)
    for got, exact in zip(ours, truth, strict=True):
        assert (got.double() - exact.double()).abs().max() <= rtol * exact.double().abs().max() + 1e-7


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_hostile_rows_are_the_eager_ones(way: dict[str, object]) -> None:
    q, p = (torch.tensor(x, device=DEVICE).requires_grad_() for x in zip(*HOSTILE, strict=True))
    ours, eager = (with_gradients(q, p, backend, False, **way) for backend in ("triton", "eager"))
    for got, same in zip(ours, eager, strict=True):
        torch.testing.assert_close(got, same, equal_nan=True, rtol=1e-5, atol=1e-6)
        assert not got[:-1].isnan().any(), "only a row without any word is nan"


@pytest.mark.parametrize(("tokens", "width"), [(1, 2), (7, 503)])
def test_log_probs_and_entropy_are_the_eager_ones(tokens: int, width: int) -> None:
    q, _ = logits(tokens, width, 1.0, torch.float32)
    chosen = torch.arange(tokens, device=DEVICE) % width
    found = []
    for backend, z in (("triton", q), ("eager", q.double())):
        pair = vocab.token_logprobs(z, chosen, entropy=True, temperature=0.7, backend=backend)
        found.append([*pair, *torch.autograd.grad((2 * pair[0] - pair[1]).sum(), q)])
    for got, exact in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), exact.double(), rtol=1e-5, atol=1e-6)


def test_hostile_log_probs_are_the_eager_ones() -> None:
    z = torch.tensor([q for q, _ in HOSTILE], device=DEVICE).requires_grad_()
    chosen = torch.arange(len(z), device=DEVICE) % 4
    found = []
    for backend in ("triton", "eager"):
        pair = vocab.token_logprobs(z, chosen, entropy=True, backend=backend)
        found.append([*pair, *torch.autograd.grad(pair[1].sum(), z)])
    for got, same in zip(*found, strict=True):
        torch.testing.assert_close(got, same, equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_linear_forms_run_on_the_kernels() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 8), (200, 8), (6, 5), (200, 5))
    inputs = [torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]
    weights = torch.linspace(0.0, 1.0, 6, device=DEVICE)
    found = []
    for backend in ("triton", "eager"):
        options = {"backend": backend, "softcap": 5.0, "workspace": 1 << 14}
        apart = (vocab.linear_token_kl(*inputs, **options) * weights).sum()
        at_once, values = vocab.linear_weighted_kl(*inputs, weights, **options)
        torch.testing.assert_close(apart, at_once)
        found.append([values, *torch.autograd.grad(apart, inputs), *torch.autograd.grad(at_once, inputs)])
    for got, same in zip(*found, strict=True):
        torch.testing.assert_close(got, same, rtol=1e-4, atol=1e-5)


def test_a_small_kl_keeps_its_digits() -> None:
    q, p = logits(7, 503, 1e-3, torch.float32)
    exact = vocab.token_kl(q.double(), p.double(), backend="eager")
    assert exact.min() < 1e-6
    got = vocab.token_kl(q, p, backend="triton").double()
    assert ((got - exact).abs() / exact).max() < 1e-3
    assert (got >= 0).all()


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr("kullback.vocab.backends.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape(install_line("triton"))):
        vocab.token_kl(torch.zeros(1, 2), torch.zeros(1, 2), backend="triton")
