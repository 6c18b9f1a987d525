"""The dynamic programmes of MarkovLM against enumeration, sampling and the clock."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.oracle import MarkovLM, TreeLM, World, exact_gradient


def pair(vocab: int = 4, horizon: int = 4, seed: int = 0, scale: float = 1.0) -> tuple[MarkovLM, MarkovLM]:
    rng = np.random.default_rng(seed)
    return tuple(  # type: ignore[return-value]
        MarkovLM(scale * rng.normal(size=vocab), scale * rng.normal(size=(vocab, vocab)), eos=1, horizon=horizon)
        for _ in range(2)
    )


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_values_and_variances_are_those_of_the_tree(horizon: int) -> None:
    q, p = pair(horizon=horizon)
    at = World(q.tree(), p.tree())
    assert q.reverse_kl(p) == pytest.approx(float(at.exact(kb.REVERSE_KL)), rel=1e-11)
    assert q.forward_kl(p) == pytest.approx(float(at.exact(kb.FORWARD_KL)), rel=1e-11)
    for estimator in (kb.K1, kb.K3, kb.RAO_BLACKWELL):
        k = at.summand(estimator, "token")
        mean = np.sum(at.probability * k)
        want = float(np.sum(at.probability * (k - mean) ** 2))
        assert q.variance(p, estimator.name) == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_moments_of_sequences_are_those_of_the_tree(horizon: int) -> None:
    q, p = pair(horizon=horizon, scale=0.6)
    at = World(q.tree(), p.tree())
    total = (at.policy.logprobs - at.reference.logprobs).sum(axis=1)
    np.testing.assert_allclose(
        q.log_ratio_moments(p), [at.probability @ total**j for j in range(5)], rtol=1e-10, atol=1e-13
    )
    assert q.pearson_chi2(p) == pytest.approx(float(at.exact(kb.TARGETS["pearson_chi2"])), rel=1e-10)
    mean, variance = q.moments(p, lambda x, kl: x * x / 2 + np.sin(kl))
    k = at.summand(lambda x: x * x / 2, "token") + (np.sin(at.token_kl) * at.policy.mask).sum(axis=1)
    assert mean == pytest.approx(float(at.probability @ k), rel=1e-10)
    assert variance == pytest.approx(float(at.probability @ (k - mean) ** 2), rel=1e-9, abs=1e-13)


def test_the_ratio_of_sequences_can_have_no_variance_that_a_float_holds() -> None:
    q, p = pair(vocab=6, horizon=2000)
    q.initial[1] = q.logprobs[:, 1] = p.initial[1] = p.logprobs[:, 1] = -50.0
    assert q.pearson_chi2(p) == np.inf
    assert np.isfinite(q.log_ratio_moments(p)).all()


@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("target", [kb.REVERSE_KL, kb.FORWARD_KL], ids=lambda t: t.name)
def test_gradients_are_those_of_the_tree(target: kb.Target, horizon: int) -> None:
    q, p = pair(vocab=3, horizon=horizon)
    initial, rest = (torch.tensor(x, requires_grad=True) for x in (q.initial, q.logprobs))
    tree = q.tree()
    rows = [initial if not prefix else rest[prefix[-1]] for prefix in tree.prefixes]
    at = World(TreeLM(torch.stack(rows), 1, horizon), TreeLM(torch.tensor(p.tree().logits), 1, horizon))
    wanted = torch.autograd.grad(target.exact(at), (initial, rest), allow_unused=True)
    got = q.reverse_kl_gradient(p) if target is kb.REVERSE_KL else q.forward_kl_gradient(p)
    np.testing.assert_allclose(got.initial, wanted[0].numpy(), rtol=1e-10, atol=1e-13)
    if wanted[1] is not None:
        np.testing.assert_allclose(got.logits, wanted[1].numpy(), rtol=1e-10, atol=1e-13)


def test_samples_agree_with_the_dynamic_programme() -> None:
    q, p = pair(vocab=30, horizon=40, scale=0.7)
    tokens, mask = q.sample(np.random.default_rng(0), 20_000)
    columns = {
        "logprobs": q.score(tokens),
        "ref_logprobs": p.score(tokens),
        "mask": mask,
        "token_kl": q.token_kl(p, tokens),
    }
    for estimator in (kb.K1, kb.K3, kb.RAO_BLACKWELL):
        found = kb.Accumulator(estimator=estimator).update(columns).result()
        assert abs(found.value - q.reverse_kl(p)) < 4 * found.stderr
        assert 20_000 * found.stderr**2 == pytest.approx(q.variance(p, estimator.name), rel=0.1)


def test_iid_tokens_have_the_published_variances() -> None:
    """docs/theory.md: end with probability .1; standard deviations .826694, .355408 and .502321."""
    q, p = (
        MarkovLM(np.log(row), np.log([row] * 3), eos=0, horizon=600) for row in ([0.1, 0.45, 0.45], [0.05, 0.6, 0.35])
    )
    assert q.reverse_kl(p) == pytest.approx(0.529492781791, rel=1e-10)
    for name, deviation in (("k1", 0.826694), ("k3", 0.355408), ("rao_blackwell", 0.502321)):
        assert q.variance(p, name) ** 0.5 == pytest.approx(deviation, abs=1e-6)


@pytest.mark.slow
def test_a_thousand_words_and_a_thousand_tokens() -> None:
    q, p = pair(vocab=1000, horizon=1000)
    assert q.reverse_kl(p) > 0
    assert q.forward_kl(p) > 0
    gradient = q.reverse_kl_gradient(p)
    assert abs(gradient.logits.sum(axis=1)).max() < 1e-8  # softmax: every row sums to 0
    assert q.forward_kl_gradient(p).logits.shape == (1000, 1000)
    assert q.variance(p, "k1") > q.variance(p, "rao_blackwell")
    assert q.sample(np.random.default_rng(0), 4)[0].shape == (4, 1000)


def test_what_does_not_fit_is_refused() -> None:
    q, _ = pair()
    with pytest.raises(ShapeError, match="are needed"):
        MarkovLM(np.zeros(3), np.zeros((2, 3)), eos=0, horizon=2)
    with pytest.raises(InputError, match="eos is a token"):
        MarkovLM(np.zeros(3), np.zeros((3, 3)), eos=3, horizon=2)
    with pytest.raises(InputError, match="they must share them"):
        q.reverse_kl(pair(horizon=3)[0])
    with pytest.raises(InputError, match="it is one of k1"):
        q.variance(q, "k2")


def test_exact_gradient_needs_a_gradient() -> None:
    q, p = pair()
    with pytest.raises(InputError, match="requires_grad=True"):
        exact_gradient(World(q.tree(), p.tree()), kb.REVERSE_KL)
