"""The oracle against closed forms and published numbers, and its samplers against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Backend, host
from hypothesis import given, settings
from worlds import generic, logit_pairs, world

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.estimators import LEVELS
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments, reference_world
from kullback.oracle.loss_gradients import torch_columns
from kullback.oracle.tree import prefix_count


def table(rows: list[list[float]], eos: int, horizon: int) -> TreeLM:
    with np.errstate(divide="ignore"):
        return TreeLM(np.log(np.array(rows)), eos=eos, horizon=horizon)


def test_a_world_where_rao_blackwell_is_worse_than_k1() -> None:
    # Tokens 0 and 1 of two steps; a third token, never drawn, stands for end-of-sequence.
    q = table([[0.5, 0.5, 0], [0.5, 0.5, 0], [0.01, 0.99, 0]], eos=2, horizon=2)
    p = table([[0.25, 0.75, 0], [0.5, 0.5, 0], [0.99, 0.01, 0]], eos=2, horizon=2)
    at = World(q, p)
    with np.errstate(invalid="ignore"):
        assert float(at.expectation(lambda a, b, mask: a - b)) == pytest.approx(2.39545, abs=1e-5)
        assert float(at.variance(lambda a, b, mask: a - b)) == pytest.approx(3.31591, abs=1e-5)
        assert float(at.variance(lambda a, b, mask: at.token_kl)) == pytest.approx(5.06974, abs=1e-5)


def test_iid_tokens_until_eos() -> None:
    q, p = np.array([0.1, 0.45, 0.45]), np.array([0.05, 0.6, 0.35])
    token = float(np.sum(q * np.log(q / p)))
    horizon = 9
    at = World(*(TreeLM(lambda prefix, row=row: np.log(row), eos=0, horizon=horizon) for row in (q, p)))
    steps = sum(0.9**t for t in range(horizon))
    assert float(at.exact(kb.REVERSE_KL)) == pytest.approx(token * steps, rel=1e-12)
    assert token / 0.1 == pytest.approx(0.529492781791, rel=1e-10)
    for estimator in (kb.K1, kb.K3, kb.RAO_BLACKWELL):
        assert float(at.value(estimator, "token")) == pytest.approx(token * steps, rel=1e-12)


def test_two_outcomes() -> None:
    at = World(table([[0.8, 0.2]], 0, 1), table([[0.5, 0.5]], 0, 1))
    assert float(at.exact(kb.REVERSE_KL)) == pytest.approx(0.192745, abs=1e-6)


def test_when_the_end_token_is_dropped_every_estimator_is_biased() -> None:
    at = world(*generic())
    not_eos = at.policy.tokens != at.policy.eos

    def without_end(estimator: kb.Estimator) -> float:
        return float(at.expectation(lambda q, p, mask: np.where(not_eos, estimator(q - p), 0.0)))

    exact = float(at.exact(kb.REVERSE_KL))
    assert abs(without_end(kb.K1) - exact) > 1e-3
    assert abs(without_end(kb.K3) - exact) > 1e-3


@settings(max_examples=25, deadline=None)
@given(pair=logit_pairs())
def test_probabilities_add_up_and_tokens_count(pair: tuple[np.ndarray, np.ndarray, int]) -> None:
    at = world(*pair)
    assert float(at.probability.sum()) == pytest.approx(1.0, abs=1e-12)
    weights, q, _ = at.outcomes("state")
    mean_length = float(at.expectation(lambda a, b, mask: 1.0 * mask))
    assert float(weights.sum()) == pytest.approx(mean_length, rel=1e-12)
    assert len(at.policy.prefixes) == prefix_count(at.policy.vocab, at.policy.horizon) == len(q)


def test_off_policy_expectations_weigh_back_to_the_policy() -> None:
    q, p, horizon = generic()
    mu = TreeLM(generic(seed=5)[0], eos=0, horizon=horizon)
    at = World(TreeLM(q, 0, horizon), TreeLM(p, 0, horizon), behavior=mu)
    weight = np.exp(np.cumsum(at.policy.logprobs - mu.logprobs, axis=1))
    got = float(at.expectation(lambda a, b, mask: weight * (a - b)))
    assert got == pytest.approx(float(at.exact(kb.REVERSE_KL)), rel=1e-12)


def test_every_backend_gives_the_same_world(backend: Backend) -> None:
    pair = generic()
    mine, numpy_world = world(*pair, array=backend.array), world(*pair)
    np.testing.assert_allclose(host(mine.token_kl), numpy_world.token_kl, rtol=1e-12)
    np.testing.assert_allclose(host(mine.policy.prefix_logprobs), numpy_world.policy.prefix_logprobs, rtol=1e-12)
    for level in LEVELS:
        assert float(host(mine.value(kb.K3, level))) == pytest.approx(float(numpy_world.value(kb.K3, level)), rel=1e-12)


def test_sampling_draws_what_is_enumerated() -> None:
    at = world(*generic())
    rows = at.sampler.sample(np.random.default_rng(0), 200_000)
    counts = np.bincount(rows, minlength=len(at.probability))
    expected = 200_000 * at.probability
    assert float(np.sum((counts - expected) ** 2 / expected)) < 60  # χ² with 20 degrees of freedom


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TreeLM(np.zeros((2, 3)), eos=0, horizon=2), ShapeError, "(3, 3) is needed"),
        (lambda: TreeLM(np.zeros((1, 3)), eos=3, horizon=1), InputError, "the tokens 0 to 2"),
        (lambda: TreeLM(np.zeros((1, 3)), eos=0, horizon=0), InputError, "at least one token"),
        (lambda: TreeLM(lambda prefix: [0.0] * 50, eos=0, horizon=9), InputError, "use a smaller world"),
        (
            lambda: World(TreeLM(np.zeros((1, 3)), 0, 1), TreeLM(np.zeros((1, 2)), 0, 1)),
            InputError,
            "must share one",
        ),
    ],
)
def test_impossible_trees_are_refused(make: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value)


def test_gradients_need_torch_and_say_so() -> None:
    plain = world(*generic(vocab=2, horizon=2))
    with pytest.raises(InputError, match="must be a torch tensor with requires_grad=True"):
        exact_gradient(plain, kb.REVERSE_KL)
    live = reference_world("near", torch=True)
    with pytest.raises(InputError, match="the loss is a ndarray, but a torch tensor is needed to take gradients"):
        loss_moments(live, lambda q, p, mask: np.zeros(1))
    assert torch_columns(live)["mask"].dtype is torch.bool
