"""What the vocabulary's kernels must compute, written out, and how tests measure their distance from it.

The formulas are written once. On float64 copies of the inputs they are the truth (``test_vocab`` holds them to
mpmath); on the inputs themselves they are the naive implementation, whose error no kernel may exceed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.profiler import ProfilerActivity, profile

from kullback import vocab
from kullback.vocab import compiled

Function = Callable[..., Tensor]
needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
COMPILER_WARNINGS = [  # torch warns of itself while it compiles
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

WAYS: dict[str, dict[str, Any]] = {
    "reverse": {},
    "forward": {"direction": "forward"},
    "jensen_shannon": {"direction": "jensen_shannon"},
    "skewed": {"skew": 0.3},
    "skewed_forward": {"direction": "forward", "skew": 0.3},
}
"""The divergences, as options of ``token_kl``."""

LUCK = 2.0
"""Two roundings of one number differ by chance: of root mean squares by this much at most."""


def token_kl(
    logits: Tensor, ref_logits: Tensor, *, direction: str = "reverse", skew: float = 1.0, temperature: float = 1.0
) -> Tensor:
    q, p = (torch.log_softmax(_at_least_float32(z) / temperature, dim=-1) for z in (logits, ref_logits))
    if direction == "jensen_shannon":
        middle = _mixture(q, p, 0.5)
        return 0.5 * (_kl(q, middle) + _kl(p, middle))
    if direction == "forward":
        q, p = p, q
    return _kl(q, p if skew == 1 else _mixture(q, p, skew))


def _kl(a: Tensor, b: Tensor) -> Tensor:
    """Σ e^a (a − b); nan where either is no distribution."""
    mass = a.exp()
    value = (mass * torch.where(mass > 0, a - b, 0.0)).sum(dim=-1)
    return value.where(~(a + b).isnan().all(dim=-1) | (a - b).isinf().any(dim=-1), math.nan)


def _mixture(a: Tensor, b: Tensor, share: float) -> Tensor:
    """log((1 − share)e^a + share·e^b), with a gradient also where both are −inf."""
    gone = a.isneginf() & b.isneginf()
    a, b = a.masked_fill(gone, 0.0), b.masked_fill(gone, 0.0)
    return torch.logaddexp(a + math.log1p(-share), b + math.log(share)).masked_fill(gone, -math.inf)


def token_logprobs(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """(…, 2): log-prob and entropy."""
    q = torch.log_softmax(_at_least_float32(logits) / temperature, dim=-1)
    mass = q.exp()
    entropy = -(mass * torch.where(mass > 0, q, 0.0)).sum(dim=-1)
    return torch.stack([q.gather(-1, tokens[..., None])[..., 0], entropy], dim=-1)


def head_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, *, scale: float = 1.0, softcap: float | None = None
) -> Tensor:
    z = hidden @ weight.T
    z = scale * (z if bias is None else z + bias)
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def weights(*shape: int) -> Tensor:
    """Upstream gradients without coincidences, which every dtype holds exactly."""
    count = math.prod(shape)
    return torch.tensor([1.0, -2.0, 0.5, 3.0, -0.25]).repeat(count // 5 + 1)[:count].view(shape)


def with_gradients(function: Function, *inputs: Tensor | None, upstream: Tensor | None = None) -> list[Tensor]:
    """The function's value and its gradients to the floating-point inputs that are there."""
    leaves = [x if x is None or not x.is_floating_point() else x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    value.backward((weights(*value.shape) if upstream is None else upstream).to(value))
    return [value.detach(), *(x.grad for x in leaves if x is not None and x.is_floating_point())]


def true(function: Function, *inputs: Tensor | None, upstream: Tensor | None = None) -> list[Tensor]:
    """``with_gradients`` in float64, on the same numbers."""
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in inputs]
    return with_gradients(function, *wide, upstream=upstream)


def assert_no_worse(function: Function, written_out: Function, *inputs: Tensor, floor: float = 0.0) -> None:
    """Value and gradients of rows of logits are as near to the truth as the naive ones.

    ``written_out`` is called on some rows at a time, for it is tokens × vocabulary large.
    """
    upstream = weights(len(inputs[0]))
    got = with_gradients(function, *inputs, upstream=upstream)
    parts = list(zip(*(x.split(64) for x in (*inputs, upstream)), strict=True))
    naive, want = (
        [torch.cat(rows) for rows in zip(*(made(written_out, *x, upstream=g) for *x, g in parts), strict=True)]
        for made in (with_gradients, true)
    )
    finite = want[0].isfinite()
    torch.testing.assert_close(got[0][~finite].double(), want[0][~finite], equal_nan=True)
    assert_errors(*([x[finite] for x in of] for of in (got, naive, want)), floor=floor)


ROUNDING = 1e-30
"""What float64 leaves of a divergence of two equal distributions."""


def assert_errors(got: list[Tensor], naive: list[Tensor], want: list[Tensor], floor: float = 0.0) -> None:
    """Root mean square errors no larger than the naive ones; gradients may be off by the rounding of floor."""
    for i, (ours, theirs, right) in enumerate(zip(got, naive, want, strict=True)):
        error, allowed = rms(ours.double() - right), rms(theirs.double() - right)
        resolution = 2 * torch.finfo(ours.dtype).eps * max(rms(right), floor if i else 0.0) + ROUNDING
        assert error <= LUCK * allowed + resolution, (
            f"{f'gradient {i}' if i else 'value'}: error {error:.2g}, naive {allowed:.2g}, of {rms(right):.2g}"
        )


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes that torch's allocator held at a time, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        function()
    assert run.profiler is not None
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), default=0)


# --- pairs of logits, for every backend ------------------------------------------------------------------------------

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SLOW_COMPILE = pytest.mark.slow, needs_compiler
BACKENDS = {"eager": (), "compile": SLOW_COMPILE}
"""Every backend with the marks of its tests; ``test_compiled_blocks`` has torch.compile in the default run."""
TOKENS, WIDTH = 7, 123
"""The shape of every test that runs on all backends: torch.compile takes seconds for another."""

every_backend = pytest.mark.parametrize("backend", [pytest.param(name, marks=BACKENDS[name]) for name in BACKENDS])
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
every_way = pytest.mark.parametrize("way", WAYS)
logprob_or_entropy = pytest.mark.parametrize("column", [0, 1], ids=["logprob", "entropy"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiled blocks and slabs so small that 7 × 123 logits have two blocks, a rest, and three slabs."""
    monkeypatch.setattr(compiled, "BLOCK_WIDTH", 50)
    monkeypatch.setattr(compiled, "SLAB_BYTES", 1)
    monkeypatch.setattr(compiled, "SWEPT_BYTES", 4 * 4 * WIDTH)
    monkeypatch.setattr(compiled, "MENDED_ROWS", 2)
    with dynamo.patch(recompile_limit=100):  # more kinds of call than a program has
        yield


def close_pair(tokens: int = TOKENS, width: int = WIDTH, apart: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a policy and of a reference near to it."""
    generator = torch.Generator().manual_seed(seed + tokens * width)
    logits = 3.0 * torch.randn(tokens, width, generator=generator)
    return logits, logits + apart * torch.randn(tokens, width, generator=generator)


def ids(tokens: int = TOKENS, width: int = WIDTH) -> Tensor:
    return torch.arange(tokens) * 5 % width


def one_of(function: Callable[..., Any], column: int, **options: Any) -> Callable[..., Tensor]:
    """The log-prob or the entropy of a function that has both."""
    if function is vocab.token_logprobs:
        options["entropy"] = True
        return lambda z, tokens: function(z, tokens, **options)[column]
    return lambda z, tokens: function(z, tokens, **options)[..., column]
