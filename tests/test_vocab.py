"""vocab.token_kl and vocab.token_logprobs: exact to their dtype, for every divergence, shape and hostile logit."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import vocab_truth as truth
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.utils.checkpoint import checkpoint
from vocab_truth import WAYS, assert_no_worse, needs_compiler, peak_bytes, with_gradients
from worlds import generic

import kullback as kb
from kullback import vocab
from kullback.errors import InputError, KullbackError, MissingPackageError, ShapeError
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments
from kullback.vocab import backends, compiled, eager

pytestmark = [  # torch warns of itself while it compiles
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
INF, NAN = math.inf, math.nan
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SLOW_COMPILE = pytest.mark.slow, needs_compiler
BACKENDS = {"eager": (), "compile": SLOW_COMPILE}
"""Every backend with the marks of its tests; ``test_compiled_blocks`` has torch.compile in the default run."""
TOKENS, WIDTH = 7, 123
"""The shape of every test that runs on all backends: torch.compile takes seconds for another."""

every_backend = pytest.mark.parametrize("backend", [pytest.param(name, marks=BACKENDS[name]) for name in BACKENDS])
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
every_way = pytest.mark.parametrize("way", WAYS)


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


# --- errors against float64 ------------------------------------------------------------------------------------------

SHAPES = [
    *itertools.product((1, 7, 252, 507), (2, 123)),
    *[(1, 32_001), (7, 151_936)],
    *[
        pytest.param(*shape, marks=pytest.mark.slow)
        for shape in [(7, 32_001), (252, 32_001), (507, 32_001), (1, 151_936), (252, 151_936), (507, 151_936)]
    ],
]
every_shape = pytest.mark.parametrize(("tokens", "width"), SHAPES)
logprob_or_entropy = pytest.mark.parametrize("column", [0, 1], ids=["logprob", "entropy"])


@every_dtype
@every_shape
def test_the_kl_errs_no_more_than_written_out(tokens: int, width: int, dtype: torch.dtype) -> None:
    pair = (z.to(dtype) for z in close_pair(tokens, width))
    assert_no_worse(vocab.token_kl, truth.token_kl, *pair)


@logprob_or_entropy
@every_dtype
@every_shape
def test_logprobs_err_no_more_than_written_out(tokens: int, width: int, dtype: torch.dtype, column: int) -> None:
    logits = close_pair(tokens, width)[0].to(dtype)
    assert_no_worse(
        one_of(vocab.token_logprobs, column), one_of(truth.token_logprobs, column), logits, ids(tokens, width)
    )


@every_backend
@every_dtype
@every_way
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_divergence_errs_no_more_than_written_out(
    temperature: float, way: str, dtype: torch.dtype, backend: str
) -> None:
    options = {**WAYS[way], "temperature": temperature}
    pair = (z.to(dtype) for z in close_pair())
    assert_no_worse(
        functools.partial(vocab.token_kl, **options, backend=backend),
        functools.partial(truth.token_kl, **options),
        *pair,
    )


@logprob_or_entropy
@every_backend
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_on_every_backend(column: int, temperature: float, backend: str) -> None:
    options = {"temperature": temperature}
    assert_no_worse(
        one_of(vocab.token_logprobs, column, backend=backend, **options),
        one_of(truth.token_logprobs, column, **options),
        close_pair()[0],
        ids(),
    )


@pytest.mark.parametrize("shift", [0.0, 7.3])
@pytest.mark.parametrize("apart", [1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize(
    ("backend", "tokens", "width"),
    [("eager", 4, 151_936), *[pytest.param(name, 63, WIDTH, marks=BACKENDS[name]) for name in BACKENDS]],
)
def test_a_small_kl_keeps_its_digits(backend: str, tokens: int, width: int, apart: float, shift: float) -> None:
    q, p = close_pair(tokens, width, apart)
    p = p + shift
    for direction in ("reverse", "forward"):
        got = vocab.token_kl(q, p, direction=direction, backend=backend).double()
        want = truth.token_kl(q.double(), p.double(), direction=direction)
        assert (got >= 0).all()
        counted = want >= 5e-7
        assert apart < 1e-2 or counted.all()
        assert ((got - want).abs() <= 1e-4 * want)[counted].all(), ((got - want).abs() / want)[counted].max()


@every_backend
def test_a_word_that_only_the_reference_expects(backend: str) -> None:
    """A KL of 6e-6 that one word makes, whose mass of the policy is so small that float32 hardly holds it."""
    q = close_pair()[0].log_softmax(dim=-1)
    p = q.clone()
    q[:, 7], p[:, 7] = -100.0, -12.0
    got, want = vocab.token_kl(q, p, backend=backend), truth.token_kl(q.double(), p.double())
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0.0)


@needs_compiler
def test_compiled_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager has no part in them but for one row, and for a block in which the sweep would lose digits."""
    taken = []
    for name in ("pair_statistics", "pair_gradients", "token_statistics", "token_gradients"):
        kernel = getattr(eager, name)
        monkeypatch.setattr(
            eager, name, lambda z, *rest, kernel=kernel, **o: (taken.append(tuple(z.shape)), kernel(z, *rest, **o))[1]
        )
    q, p = close_pair()
    kl = functools.partial(vocab.token_kl, backend="compile")
    assert_no_worse(kl, truth.token_kl, q, p)
    assert_no_worse(one_of(vocab.token_logprobs, 1, backend="compile"), one_of(truth.token_logprobs, 1), q, ids())
    assert taken == []
    assert_no_worse(kl, truth.token_kl, q[:1], p[:1])
    assert taken == [(1, WIDTH)] * 2
    taken.clear()
    hard = q.clone(), q + 1e-3 * p
    for z, peak in zip(hard, (0.1, 1.0), strict=True):
        z[0, 50:100] *= 0.01
        z[0, 60] = peak  # the largest word, about which alone the models disagree
    ban = torch.zeros(TOKENS, WIDTH, dtype=torch.bool).index_fill(1, torch.tensor(WIDTH - 1), True)
    assert_no_worse(kl, truth.token_kl, *(z.masked_fill(ban, -INF) for z in hard))
    of_three, of_four = [(1, 50), (2, WIDTH % 50), (1, WIDTH % 50)], [(2, WIDTH % 50)] * 2
    assert taken == of_three + of_four


@needs_compiler
def test_kinds_of_call_that_torch_does_not_compile_any_more() -> None:
    torch.compiler.reset()
    q, p = close_pair()
    with dynamo.patch(recompile_limit=1):
        for width in (WIDTH, WIDTH - 1):
            got = vocab.token_kl(q[:, :width], p[:, :width], backend="compile")
            torch.testing.assert_close(got, vocab.token_kl(q[:, :width], p[:, :width]), rtol=1e-5, atol=0.0)


def test_the_formula_written_out_would_lose_a_small_kl() -> None:
    """So that the test above can fail: in float32 it is off by percents, and negative in places."""
    q, p = close_pair(8, 151_936, 1e-3)
    naive, want = truth.token_kl(q, p), truth.token_kl(q.double(), p.double())
    assert ((naive - want).abs() / want).max() > 1e-2
    assert (truth.token_kl(*close_pair(252, WIDTH, 1e-4)) < 0).any()


def _hostile() -> dict[str, tuple[Tensor, Tensor]]:
    q, p = close_pair(apart=1.0)
    spike = torch.zeros(TOKENS, WIDTH).index_fill(1, torch.tensor(5), 1e4)
    signs = 1e4 * torch.where(torch.arange(TOKENS * WIDTH).view(TOKENS, WIDTH) % 3 == 0, 1.0, -1.0)
    tie = q.index_fill(1, torch.tensor([3, 70]), 9.0)
    rows, words = torch.arange(TOKENS)[:, None] % 2 == 0, torch.arange(WIDTH) % 5 == 0
    ban = functools.partial(torch.masked_fill, mask=rows & words, value=-INF)
    silence = functools.partial(torch.masked_fill, mask=rows, value=-INF)
    return {
        "constant": (torch.full_like(q, 3.0), torch.full_like(q, -2.0)),
        "constant, far from 0": (torch.full_like(q, 1e4), torch.full_like(q, -1e4)),
        "equal": (q, q),
        "one-hot policy": (spike, p),
        "one-hot reference": (q, spike),
        "one-hot, elsewhere": (spike, spike.roll(1, dims=1)),
        "±1e4": (signs, signs),
        "±1e4, opposite": (signs, -signs),
        "shifted": (q + 1e4, p - 1e4),
        "a tie": (tie, p),
        "ties": (tie, tie.roll(1, dims=1)),
        "steep": (10.0 * q, 10.0 * p.roll(1, dims=1)),
        "banned by both": (ban(q), ban(p)),
        "banned by the policy": (ban(q), p),
        "banned by the reference": (q, ban(p)),
        "banned by each": (ban(q), ban(p.roll(1, dims=1)).roll(-1, dims=1)),
        "one word left to both": (q.masked_fill(torch.arange(WIDTH) != 5, -INF),) * 2,
        "one word left to each": (
            q.masked_fill(torch.arange(WIDTH) != 5, -INF),
            p.masked_fill(torch.arange(WIDTH) != 6, -INF),
        ),
        "policy excludes everything": (silence(q), p),
        "reference excludes everything": (q, silence(p)),
        "both exclude everything": (silence(q), silence(p)),
    }


HOSTILE = _hostile()
every_hostile = pytest.mark.parametrize("name", HOSTILE)


def cancelling(value: Tensor, *logits: Tensor) -> float:
    """How large the terms g·q·log q/p and g·q·KL are, of which a gradient is the difference."""
    masses = [truth.rms(z.double().softmax(dim=-1).nan_to_num()) for z in logits]
    return max(masses) * max(1.0, truth.rms(value[value.isfinite()])) * truth.rms(truth.weights(TOKENS))


@every_backend
@every_dtype
@every_way
@every_hostile
def test_hostile_logits(name: str, way: str, dtype: torch.dtype, backend: str) -> None:
    pair = [z.to(dtype) for z in HOSTILE[name]]
    kernel = functools.partial(vocab.token_kl, **WAYS[way], backend=backend)
    value, *grads = with_gradients(kernel, *pair)
    assert_no_worse(kernel, functools.partial(truth.token_kl, **WAYS[way]), *pair, floor=cancelling(value, *pair))
    assert not (value < 0).any()
    for grad in grads:
        assert (grad[value.isinf()] == 0).all()


@logprob_or_entropy
@every_backend
@every_dtype
@every_hostile
def test_logprobs_of_hostile_logits(name: str, dtype: torch.dtype, backend: str, column: int) -> None:
    for logits in HOSTILE[name]:
        assert_no_worse(
            one_of(vocab.token_logprobs, column, backend=backend),
            one_of(truth.token_logprobs, column),
            logits.to(dtype),
            ids(),
            floor=cancelling(torch.ones(1), logits),
        )


@every_backend
def test_what_exclusion_means(backend: str) -> None:
    """A word out on both sides does not count, on one it costs inf, and without words there is nothing to say."""
    q = torch.full((6, WIDTH), -INF)
    p = q.clone()
    words = {  # policy's logits, reference's, KL(q‖p), KL(p‖q)
        "both allow one": ([0.0, -INF], [1.0, -INF], 0.0, 0.0),
        "reference bans": ([0.0, 0.0], [0.0, -INF], INF, math.log(2)),
        "policy bans": ([0.0, -INF], [0.0, 0.0], math.log(2), INF),
        "nothing in common": ([0.0, -INF], [-INF, 0.0], INF, INF),
        "no policy": ([-INF, -INF], [0.0, 0.0], NAN, NAN),
        "no reference": ([0.0, 0.0], [-INF, -INF], NAN, NAN),
    }
    for row, (mine, theirs, *_) in enumerate(words.values()):
        q[row, :2], p[row, :2] = torch.tensor(mine), torch.tensor(theirs)
    for i, direction in enumerate(("reverse", "forward")):
        got, *grads = with_gradients(functools.partial(vocab.token_kl, direction=direction, backend=backend), q, p)
        assert dict(zip(words, got.tolist(), strict=True)) == pytest.approx(
            {name: row[2 + i] for name, row in words.items()}, nan_ok=True
        )
        for grad in grads:
            assert grad[:4].isfinite().all()
            assert (grad[:4][got[:4].isinf()] == 0).all()


@st.composite
def drawn_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6)))
    numbers = st.floats(-15, 15, width=32, allow_subnormal=False)  # float32 has every mass, at a temperature of 0.5 too
    logits = arrays(np.float64, shape, elements=st.one_of(numbers, numbers, numbers, st.just(-INF)))
    return torch.from_numpy(draw(logits)), torch.from_numpy(draw(logits))


@given(drawn_pairs(), st.sampled_from(list(WAYS)), st.sampled_from([0.5, 1.0, 3.0]))
def test_drawn_worlds(pair: tuple[Tensor, Tensor], way: str, temperature: float) -> None:
    options = {**WAYS[way], "temperature": temperature}
    kernel = functools.partial(vocab.token_kl, **options)
    got, want = with_gradients(kernel, *pair), with_gradients(functools.partial(truth.token_kl, **options), *pair)
    torch.testing.assert_close(got[0], want[0], rtol=1e-12, atol=1e-13, equal_nan=True)
    at = want[0].isfinite()
    for ours, theirs in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(ours[at], theirs[at], rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(ours[at].sum(dim=-1), torch.zeros(int(at.sum())).double(), rtol=0, atol=1e-12)
    single = kernel(*(z.float() for z in pair))
    assert not (single < 0).any()
    torch.testing.assert_close(single.double(), want[0], rtol=1e-4, atol=1e-7, equal_nan=True)


@given(drawn_pairs(), st.data(), st.sampled_from([0.5, 1.0, 3.0]))
def test_drawn_tokens(pair: tuple[Tensor, Tensor], data: st.DataObject, temperature: float) -> None:
    logits = pair[0].masked_fill(pair[0].isneginf().all(dim=-1)[:, None], 0.0)
    tokens = torch.from_numpy(data.draw(arrays(np.int64, len(logits), elements=st.integers(0, logits.shape[1] - 1))))
    for column in (0, 1):
        got, want = (
            with_gradients(one_of(f, column, temperature=temperature), logits, tokens)
            for f in (vocab.token_logprobs, truth.token_logprobs)
        )
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_the_truth_is_true() -> None:
    """Against fifty digits, on logits where cancellation and underflow would show."""
    q, p = (torch.tensor(z, dtype=torch.float64) for z in ([1.0, 1e-3, -40.0, -800.0], [1.0 + 1e-6, 0.0, -3.0, 2.0]))
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(x) for x in z.tolist()] for z in (q, p))
        a, b = ([x - mpmath.log(sum(map(mpmath.exp, z))) for x in z] for z in (a, b))

        def kl(a: list[Any], b: list[Any]) -> Any:
            return sum(mpmath.exp(x) * (x - y) for x, y in zip(a, b, strict=True))

        def mixed(a: list[Any], b: list[Any], share: str) -> list[Any]:
            s = mpmath.mpf(share)
            return [mpmath.log((1 - s) * mpmath.exp(x) + s * mpmath.exp(y)) for x, y in zip(a, b, strict=True)]

        middle = mixed(a, b, "0.5")
        want = {
            "reverse": kl(a, b),
            "forward": kl(b, a),
            "jensen_shannon": (kl(a, middle) + kl(b, middle)) / 2,
            "skewed": kl(a, mixed(a, b, "0.3")),
            "skewed_forward": kl(b, mixed(b, a, "0.3")),
        }
        got = {way: float(truth.token_kl(q, p, **options)) for way, options in WAYS.items()}
        assert got == pytest.approx({way: float(x) for way, x in want.items()}, rel=1e-13)
        entropy = -sum(mpmath.exp(x) * x for x in a)
        both = truth.token_logprobs(q, torch.tensor(2))
        assert both.tolist() == pytest.approx([float(a[2]), float(entropy)], rel=1e-14)


# --- gradients -------------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_gradients_by_finite_differences(way: str, temperature: float) -> None:
    pair = [z.double().requires_grad_() for z in close_pair(3, 5, 1.0)]
    assert torch.autograd.gradcheck(
        lambda q, p: vocab.token_kl(q, p, **WAYS[way], temperature=temperature), pair, atol=1e-8
    )


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_gradients_of_logprobs_by_finite_differences(temperature: float) -> None:
    logits = close_pair(3, 5)[0].double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: vocab.token_logprobs(z, ids(3, 5), entropy=True, temperature=temperature), [logits], atol=1e-8
    )


@every_way
def test_the_gradient_to_one_model_is_the_same_alone(way: str) -> None:
    q, p = close_pair()
    _, *both = with_gradients(functools.partial(vocab.token_kl, **WAYS[way]), q, p)
    _, of_q = with_gradients(lambda z: vocab.token_kl(z, p, **WAYS[way]), q)
    _, of_p = with_gradients(lambda z: vocab.token_kl(q, z, **WAYS[way]), p)
    assert torch.equal(of_q, both[0])
    assert torch.equal(of_p, both[1])


def test_logprob_and_entropy_together_have_the_sum_of_their_gradients() -> None:
    logits = close_pair()[0].double()
    apart = [with_gradients(one_of(vocab.token_logprobs, i), logits, ids())[1] for i in (0, 1)]
    _, together = with_gradients(lambda z: sum(vocab.token_logprobs(z, ids(), entropy=True)), logits)
    torch.testing.assert_close(together, sum(apart), rtol=1e-12, atol=1e-14)


REFERENCE, IDS = close_pair()[1], ids()
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        way: functools.partial(lambda z, **options: vocab.token_kl(z, REFERENCE.to(z.dtype), **options), **options)
        for way, options in WAYS.items()
    },
    "logprobs": lambda z: vocab.token_logprobs(z, IDS),
    "entropy": lambda z: vocab.token_logprobs(z, IDS, entropy=True)[1],
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
def test_a_second_derivative_is_refused(call: Callable[[Tensor], Tensor]) -> None:
    logits = close_pair()[0].requires_grad_()
    (first,) = torch.autograd.grad(call(logits).square().sum(), logits, create_graph=True)
    with pytest.raises(KullbackError, match=r"first derivatives only: .* write the divergence out with torch"):
        first.square().sum().backward()


@every_call
def test_compile_autocast_and_checkpoint_change_nothing(call: Callable[[Tensor], Tensor]) -> None:
    def under_autocast(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return call(z)

    torch._dynamo.reset()
    same = {
        "torch.compile": torch.compile(call, backend="aot_eager", fullgraph=True),
        "dynamic shapes": torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True),
        "autocast": under_autocast,
        "checkpoint": lambda z: checkpoint(call, z, use_reentrant=False),
        "again": call,
    }
    for logits in (close_pair()[0], close_pair()[0].bfloat16()):
        want = with_gradients(call, logits)
        for name, function in same.items():
            got = with_gradients(function, logits)
            assert all(map(torch.equal, got, want)), name


def test_a_backward_pass_under_autocast_changes_nothing() -> None:
    q, p = (z.requires_grad_() for z in close_pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vocab.token_kl(q, p).sum().backward()
    _, *want = with_gradients(vocab.token_kl, q, p, upstream=torch.ones(TOKENS))
    assert torch.equal(q.grad, want[0])
    assert torch.equal(p.grad, want[1])


@every_backend
@every_dtype
def test_inputs_stay_as_they_were(backend: str, dtype: torch.dtype) -> None:
    pair = [z.to(dtype).requires_grad_() for z in close_pair()]
    before = [z.detach().clone() for z in pair]
    (vocab.token_kl(*pair, backend=backend) + vocab.token_logprobs(pair[0], ids(), backend=backend)).sum().backward()
    assert all(map(torch.equal, pair, before))


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


# --- the oracle ------------------------------------------------------------------------------------------------------

STATEWISE = {
    "reverse": kb.STATEWISE_REVERSE_KL,
    "forward": kb.STATEWISE_FORWARD_KL,
    "jensen_shannon": kb.TARGETS["statewise_jensen_shannon"],
    "skewed": kb.targets.skew_kl(0.3, "state"),
}


def tree_pair(seed: int = 0) -> World:
    q, p, horizon = generic(seed)
    return World(TreeLM(torch.tensor(q, requires_grad=True), 0, horizon), TreeLM(torch.tensor(p), 0, horizon))


@pytest.mark.parametrize("way", STATEWISE)
def test_summed_over_states_it_is_the_oracles_target(way: str) -> None:
    world = tree_pair()
    states = world.policy.prefix_logprobs.detach().exp()
    total = states @ vocab.token_kl(world.policy.logits, world.reference.logits, **WAYS[way])
    want = STATEWISE[way].exact(world)
    assert total.item() == pytest.approx(want.item(), rel=1e-12)
    got = torch.autograd.grad(total, world.policy.logits)[0]
    np.testing.assert_allclose(got, exact_gradient(world, STATEWISE[way]), rtol=1e-11, atol=1e-14)


def test_its_states_make_the_kl_of_sequences() -> None:
    world = tree_pair()
    states = world.policy.prefix_logprobs.detach().exp()
    total = states @ vocab.token_kl(world.policy.logits, world.reference.logits)
    assert total.item() == pytest.approx(kb.REVERSE_KL.exact(world).item(), rel=1e-12)


def test_a_rao_blackwell_loss_of_it_follows_the_reverse_kl() -> None:
    world = tree_pair()
    world.token_kl = world.policy.token_rows(vocab.token_kl(world.policy.logits, world.reference.logits))

    def loss(q: Tensor, p: Tensor, mask: Tensor, token_kl: Tensor) -> Tensor:
        return kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL, estimator=kb.RAO_BLACKWELL, token_kl=token_kl)

    got = loss_moments(world, loss)
    assert got.value == pytest.approx(kb.REVERSE_KL.exact(world).item(), rel=1e-10)
    np.testing.assert_allclose(got.gradient, exact_gradient(world, kb.REVERSE_KL), rtol=1e-10, atol=1e-13)


def test_logprobs_are_the_trees() -> None:
    lm = tree_pair().policy
    got = vocab.token_logprobs(lm.logits[torch.from_numpy(lm.places.copy())], torch.from_numpy(lm.tokens.copy()))
    mask = torch.from_numpy(lm.mask.copy())
    torch.testing.assert_close(got[mask], lm.logprobs[mask], rtol=1e-13, atol=1e-14)


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
        (lambda: vocab.token_kl(Z, Z, backend="cuda"), InputError, "there are eager, compile, triton"),
        (lambda: vocab.token_logprobs(Z, TWO[:1]), ShapeError, "tokens has shape (1,), but logits (2, 3) needs one"),
        (lambda: vocab.token_logprobs(Z, TWO[:, None]), ShapeError, "one token a row"),
        (lambda: vocab.token_logprobs(Z[0, 0], TWO[0]), ShapeError, "(…, vocab)"),
        (lambda: vocab.token_logprobs(Z.long(), TWO), InputError, "logits holds torch.int64"),
        (lambda: vocab.token_logprobs(Z, TWO.float()), InputError, "tokens holds torch.float32, but"),
        (lambda: vocab.token_logprobs(Z, TWO + 2), InputError, "tokens holds 3, but the vocabulary has the ids 0 to 2"),
        (lambda: vocab.token_logprobs(Z, TWO - 100), InputError, "give padding any of them and leave it out"),
        (lambda: vocab.token_logprobs(Z, TWO, temperature=-1), InputError, "temperature=-1 came"),
        (lambda: vocab.token_logprobs(Z, TWO, backend="cuda"), InputError, "there are eager, compile, triton"),
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
    assert backends.backend_for(None, torch.device("cuda")) == "eager"


def test_without_torch_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; import kullback.vocab"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch is needed for this and is not installed: pip install 'kullback[torch]'" in done.stderr
