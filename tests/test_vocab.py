"""vocab.token_kl and vocab.token_logprobs: exact to their dtype, for every divergence, backend and hostile logit."""

from __future__ import annotations

import functools
import itertools
import math
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
from vocab_truth import (
    BACKENDS,
    COMPILER_WARNINGS,
    TOKENS,
    WAYS,
    WIDTH,
    assert_no_worse,
    close_pair,
    every_backend,
    every_dtype,
    every_way,
    ids,
    logprob_or_entropy,
    needs_compiler,
    one_of,
    small_blocks,  # noqa: F401 — a fixture of every test here
    true,
    with_gradients,
)

from kullback import vocab
from kullback.vocab import eager

pytestmark = COMPILER_WARNINGS
INF, NAN = math.inf, math.nan


SHAPES = [
    *itertools.product((1, 7, 252, 507), (2, 123)),
    *[(1, 32_001), (7, 151_936)],
    *[
        pytest.param(*shape, marks=pytest.mark.slow)
        for shape in [(7, 32_001), (252, 32_001), (507, 32_001), (1, 151_936), (252, 151_936), (507, 151_936)]
    ],
]
every_shape = pytest.mark.parametrize(("tokens", "width"), SHAPES)


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
def test_the_gradient_where_one_word_is_all_but_certain(backend: str) -> None:
    """Its log q/p is next to nothing beside the two logits' difference, and the gradient is made of it."""
    q, p = close_pair(apart=0.05)
    for z in (q, p):
        z[:, 7] += 20.0
    kl = functools.partial(vocab.token_kl, backend=backend)
    for got, want in zip(with_gradients(kl, q, p)[1:], true(truth.token_kl, q, p)[1:], strict=True):
        assert (got.double() - want).norm() < 1e-5 * want.norm()


@every_backend
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_to_the_policy_alone(temperature: float, backend: str) -> None:
    """As a loss with a frozen reference asks for it, of rows that are each hostile in their own way."""
    q, p = close_pair()
    q[1, 7] += 20.0
    p[1, 7] += 20.0
    q[2, 5] = p[2, 5] = p[3, 5] = -INF
    q[4, :9] = -INF
    p[5] += 1e4
    q[6] -= 1e4
    leaf = q.clone().requires_grad_()
    value = vocab.token_kl(leaf, p, temperature=temperature, backend=backend)
    (got,) = torch.autograd.grad(value, leaf, torch.arange(1.0, 1.0 + TOKENS))
    a, b = ((z.double() / temperature).log_softmax(dim=-1) for z in (q, p))
    log_ratio = torch.where(a.isneginf(), 0.0, a - b)
    kl = (a.exp() * log_ratio).sum(dim=-1, keepdim=True)
    want = torch.arange(1, 1 + TOKENS)[:, None] * a.exp() * (log_ratio - kl) / temperature
    want[kl[:, 0].isinf()] = 0.0
    assert kl[:, 0].isinf().tolist() == [row == 3 for row in range(TOKENS)]
    error, allowed = (got.double() - want).norm(dim=-1), torch.full((TOKENS,), 1e-5)
    if temperature != 1.0:
        allowed[5:] = 3e-3  # logits near 1e4 that were divided round to 1e-3
    assert (error <= allowed * want.norm(dim=-1)).all(), error / want.norm(dim=-1)


@every_backend
def test_a_word_that_only_the_reference_expects(backend: str) -> None:
    """A KL of 6e-6 that one word makes, whose mass of the policy is so small that float32 hardly holds it."""
    q = close_pair()[0].log_softmax(dim=-1)
    p = q.clone()
    q[:, 7], p[:, 7] = -100.0, -12.0
    got, want = vocab.token_kl(q, p, backend=backend), truth.token_kl(q.double(), p.double())
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0.0)


@pytest.mark.slow
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


@pytest.mark.slow
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
