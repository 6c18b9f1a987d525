"""What top-k log-probs say of a KL: bounds, and an estimate that is unbiased in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kullback import vocab
from kullback.errors import InputError, ShapeError

TREES = 4
WIDTH = 7


def pair(seed: int, apart: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(TREES, WIDTH, dtype=torch.float64, generator=generator) * 2
    p = q + apart * torch.randn(TREES, WIDTH, dtype=torch.float64, generator=generator)
    return q.log_softmax(-1), p.log_softmax(-1)


def truth(q: Tensor, p: Tensor) -> Tensor:
    return (q.exp() * (q - p)).sum(-1)


def top(q: Tensor, p: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = q.topk(k, dim=-1).indices
    return ids, q.gather(-1, ids), p.gather(-1, ids)


def words(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1]).expand(x.shape)


worlds = given(st.integers(0, 10_000), st.sampled_from([0.01, 0.3, 2.0]), st.integers(0, WIDTH))


@settings(max_examples=60, deadline=None)
@worlds
def test_bounds_hold_and_meet_when_every_word_is_listed(seed: int, apart: float, k: int) -> None:
    q, p = pair(seed, apart)
    ids, top_q, top_p = top(q, p, k)
    tail = (q - p).scatter(-1, ids, float("-inf")).amax(dim=-1)
    bound = max(0.0, float(tail.amax()))
    lower, upper, estimate = vocab.topk_kl(top_q, top_p, max_log_ratio=bound)
    exact = truth(q, p)
    assert estimate is None
    assert (lower >= 0).all()
    assert (lower <= exact + 1e-12).all()
    assert (upper >= exact - 1e-12).all()
    if k >= WIDTH - 1:
        torch.testing.assert_close(lower, exact, rtol=1e-9, atol=1e-12)


def test_there_is_no_upper_bound_without_one_on_the_ratio() -> None:
    q, p = pair(1, 0.3)
    _, top_q, top_p = top(q, p, 3)
    assert vocab.topk_kl(top_q, top_p).upper.isposinf().all()
    both = vocab.topk_kl(q, p)
    torch.testing.assert_close(both.lower, truth(q, p))
    torch.testing.assert_close(both.upper, both.lower)


@settings(max_examples=40, deadline=None)
@worlds
@pytest.mark.parametrize("coefficient", [0.0, 0.5, 1.0])
def test_the_estimate_is_unbiased_in_value_and_gradient(coefficient: float, seed: int, apart: float, k: int) -> None:
    """Every word is drawn once and weighted with its probability: the expectation by enumeration."""
    q, p = pair(seed, apart)
    logits = q.clone().requires_grad_()
    policy = logits.log_softmax(-1)
    ids, top_q, top_p = top(policy, p, k)
    values = []
    for word in range(WIDTH):
        drawn = torch.full((TREES,), word)
        listed = vocab.topk_kl(
            (ids, top_q),
            (ids, top_p),
            tokens=drawn,
            logprobs=policy[:, word],
            ref_logprobs=p[:, word],
            coefficient=coefficient,
        ).estimate
        same = vocab.topk_kl(
            top_q,
            top_p,
            inside=(ids == word).any(-1),
            logprobs=policy[:, word],
            ref_logprobs=p[:, word],
            coefficient=coefficient,
        ).estimate
        assert torch.equal(listed, same)
        values.append(listed)
    mean = (q.exp() * torch.stack(values, dim=-1)).sum(-1)
    torch.testing.assert_close(mean.detach(), truth(q, p), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(mean.sum(), logits)
    other = q.clone().requires_grad_()
    (exact,) = torch.autograd.grad(truth(other.log_softmax(-1), p).sum(), other)
    torch.testing.assert_close(gradient, exact, rtol=1e-8, atol=1e-11)


def test_lists_with_their_own_words_meet_in_what_both_hold() -> None:
    q, p = pair(3, 0.5)
    ids, top_q, _ = top(q, p, 4)
    ref_ids, ref_p, _ = top(p, q, 4)
    found = vocab.topk_kl((ids, top_q), (ref_ids, ref_p)).lower
    for row in range(TREES):
        common = [word for word in ids[row].tolist() if word in ref_ids[row].tolist()]
        expected = vocab.topk_kl(q[row, common], p[row, common]).lower
        torch.testing.assert_close(found[row], expected)


def test_the_numbers_of_a_published_example() -> None:
    """MATH 9.3: rest bucket and renormalised are neither of them the KL, and the head alone is no bound."""
    q, p = (torch.tensor(x, dtype=torch.float64).log() for x in ([0.6, 0.3, 0.1], [0.2, 0.2, 0.6]))
    exact = float(truth(q, p))
    head = float((q.exp() * (q - p))[:2].sum())
    renormalised = float(vocab.renormalised_topk_kl(q[:2], p[:2]))
    assert head > exact
    assert renormalised == pytest.approx(head / 0.9 - math.log(0.9 / 0.4))
    assert renormalised < exact


def test_small_divergences_keep_their_digits() -> None:
    q, p = pair(5, 1e-5)
    lower = vocab.topk_kl(q[:, :5], p[:, :5]).lower
    exact = (q.exp() * (torch.expm1(p - q) - (p - q))).sum(-1)
    assert ((lower > 0) & (lower <= exact * (1 + 1e-6))).all()


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda q, p: vocab.topk_kl(q + 5, p), InputError, "give log-probs, not logits"),
        (lambda q, p: vocab.topk_kl(q, p[:, :2]), ShapeError, "log-probs of the same words"),
        (lambda q, p: vocab.topk_kl((words(q), q), p), InputError, "give ids for both, or for neither"),
        (lambda q, p: vocab.topk_kl((words(q)[:, :2], q), (words(p), p)), ShapeError, "differ in shape"),
        (lambda q, p: vocab.topk_kl(q, p, logprobs=q[:, 0], ref_logprobs=p[:, 0]), InputError, "needs inside"),
        (
            lambda q, p: vocab.topk_kl((words(q), q), (words(p), p), logprobs=q[:, 0], ref_logprobs=p[:, 0]),
            InputError,
            "needs tokens",
        ),
        (
            lambda q, p: vocab.topk_kl(q, p, logprobs=q[:, 0], inside=q[:, 0] < 0),
            InputError,
            "both logprobs and ref_logprobs",
        ),
        (
            lambda q, p: vocab.topk_kl(q, p, logprobs=q[:2, 0], ref_logprobs=p[:2, 0], inside=q[:, 0] < 0),
            ShapeError,
            "one sampled token a list",
        ),
    ],
)
def test_errors_say_what_to_do(call: object, error: type[Exception], sentence: str) -> None:
    q, p = pair(7, 0.3)
    with pytest.raises(error, match=sentence):
        call(q, p)
