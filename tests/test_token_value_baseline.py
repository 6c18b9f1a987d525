"""`TokenValue`: the gradient's mean stays exact whatever the critic says, and a good critic takes its variance off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.errors import InputError, ShapeError
from kullback.losses import OBJECTIVES
from kullback.oracle import TreeLM, World, exact_gradient
from kullback.oracle.tree import prefix_count


def world_of(seed: int, vocab: int = 3, horizon: int = 3, *, behavior: bool = False) -> World:
    rng = np.random.default_rng(seed)
    shape = (prefix_count(vocab, horizon), vocab)
    base = torch.tensor(rng.normal(size=shape))
    q, p, mu = (base + 0.7 * torch.tensor(rng.normal(size=shape)) for _ in range(3))
    lms = [TreeLM(x, eos=0, horizon=horizon) for x in (q.requires_grad_(), p, mu)]
    return World(lms[0], lms[1], behavior=lms[2] if behavior else None)


def critic_of(world: World) -> torch.Tensor:
    """The KL still to come after every token, (prefixes, vocab)."""
    lm = world.policy
    q, p = (torch.as_tensor(one.log_distributions).detach() for one in (lm, world.reference))
    kl = (q.exp() * (q - p)).sum(-1)
    place = {prefix: row for row, prefix in enumerate(lm.prefixes)}
    found = torch.zeros_like(q)
    for row, prefix in reversed(list(enumerate(lm.prefixes))):
        for token in range(lm.vocab):
            if (after := place.get((*prefix, token))) is not None:
                found[row, token] = kl[after] + q[after].exp() @ found[after]
    return found


def value_of(world: World, critic: torch.Tensor) -> kb.TokenValue[Any]:
    """Of every sequence of the world."""
    lm = world.policy
    places, tokens = torch.tensor(lm.places.copy()), torch.tensor(lm.tokens.copy())
    return kb.TokenValue.of(critic[places], torch.as_tensor(lm.log_distributions)[places], tokens)


def moments(world: World, value: kb.TokenValue[Any] | None, **options: Any) -> tuple[np.ndarray, float]:
    """The mean of the gradient of one row, and the trace of its covariance."""
    lm, rows, weights = world.policy, [], np.asarray(torch.as_tensor(world.probability).detach())
    token_kl = options.pop("token_kl", None)
    for i in range(len(weights)):
        at = slice(i, i + 1)
        loss = kb.kl_loss(
            lm.logprobs[at],
            world.reference.logprobs[at],
            torch.tensor(lm.mask[at].copy()),
            behavior_logprobs=None if world.on_policy else world.sampler.logprobs[at],
            baseline=None if value is None else kb.TokenValue(value.drawn[at], value.expected[at]),
            token_kl=None if token_kl is None else token_kl[at],
            **options,
        )
        (gradient,) = torch.autograd.grad(loss, lm.logits, retain_graph=True)
        rows.append(gradient.numpy().ravel())
    table = np.array(rows)
    mean = weights @ table
    return mean, float(weights @ ((table - mean) ** 2).sum(axis=1))


@pytest.mark.parametrize("behavior", [False, True], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("objective", [one.target for one in OBJECTIVES], ids=lambda target: target.name)
def test_the_mean_is_the_exact_gradient_whatever_the_critic_says(objective: kb.Target, behavior: bool) -> None:
    world = world_of(1, horizon=2, behavior=behavior)
    critic = torch.tensor(np.random.default_rng(0).normal(size=world.policy.logits.shape))
    wanted = exact_gradient(world, objective).ravel()
    mean, _ = moments(world, value_of(world, critic), objective=objective)
    assert np.linalg.norm(mean - wanted) <= 1e-10 * np.linalg.norm(wanted)


def test_a_critic_that_is_one_number_a_prefix_is_a_baseline_with_its_mean_given_back() -> None:
    world = world_of(2)
    level = torch.tensor(np.random.default_rng(1).normal(size=(len(world.policy.prefixes), 1)))
    value = value_of(world, level.expand(-1, 3))
    lm = world.policy
    losses = [
        kb.kl_loss(
            lm.logprobs,
            world.reference.logprobs,
            torch.tensor(lm.mask.copy()),
            objective=kb.REVERSE_KL,
            baseline=baseline,
        )
        for baseline in (value, value.drawn)
    ]
    # Σ_v ∇q(v) = 0, so nothing is given back.
    first, second = (torch.autograd.grad(loss, lm.logits, retain_graph=True)[0] for loss in losses)
    assert torch.allclose(first, second, rtol=0, atol=1e-12)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)


def gains(seed: int) -> tuple[float, float]:
    """The variance of plain score and of Rao-Blackwell, over that with the best critic."""
    world = world_of(seed)
    exact = {"objective": kb.REVERSE_KL, "token_kl": world.token_kl}
    score = moments(world, None, objective=kb.REVERSE_KL)[1]
    plain = moments(world, None, **exact)[1]
    valued = moments(world, value_of(world, critic_of(world)), **exact)[1]
    return score / valued, plain / valued


def test_the_best_critic_takes_variance_off() -> None:
    found = np.array([gains(seed) for seed in range(3)])
    assert (found[:, 1] > 1.0).all()
    assert (found[:, 0] > 0.5).all()


@pytest.mark.slow
def test_the_best_critic_is_never_twice_as_noisy_as_plain_score_in_200_worlds() -> None:
    found = np.array([gains(seed) for seed in range(200)])
    assert found[:, 0].min() >= 0.5
    assert np.exp(np.log(found[:, 1]).mean()) >= 1.5


@pytest.mark.slow
def test_the_same_in_jax() -> None:
    import jax
    import jax.numpy as jnp

    world = world_of(3)
    lm = world.policy
    critic = critic_of(world)
    loss = kb.kl_loss(
        lm.logprobs,
        world.reference.logprobs,
        torch.tensor(lm.mask.copy()),
        objective=kb.REVERSE_KL,
        baseline=value_of(world, critic),
    )
    (wanted,) = torch.autograd.grad(loss, lm.logits)
    places, g = lm.places, jnp.asarray(critic.numpy())
    reference = world.reference.logprobs.numpy()

    def of(logits: Any) -> Any:
        q = jax.nn.log_softmax(logits)[places]
        drawn = jnp.where(lm.mask, jnp.take_along_axis(q, lm.tokens[..., None], -1)[..., 0], 0.0)
        value = kb.TokenValue.of(g[places], q, lm.tokens)
        return kb.kl_loss(drawn, reference, lm.mask, objective=kb.REVERSE_KL, baseline=value)

    for gradient in (jax.grad(of), jax.jit(jax.grad(of))):
        got = np.asarray(gradient(jnp.asarray(lm.logits.detach().numpy())))
        assert np.allclose(got, wanted.numpy(), rtol=0, atol=1e-5)


def test_what_is_wrong_is_refused() -> None:
    q = torch.full((2, 3), -1.0, requires_grad=True)
    p, one = torch.full((2, 3), -1.5), torch.ones(2, 3)
    for value, error, words in [
        (kb.TokenValue(one, one), InputError, "expected came without gradient"),
        (kb.TokenValue(one[:, 0], q * 1.0), ShapeError, "drawn has shape"),
        (kb.TokenValue(one * torch.nan, q * 1.0), InputError, "drawn"),
    ]:
        with pytest.raises(error, match=words):
            kb.kl_loss(q, p, objective=kb.REVERSE_KL, baseline=value)
    with pytest.raises(ShapeError, match="twice"):
        kb.TokenValue.of(torch.ones(2, 3), torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))


def test_masked_tokens_touch_nothing() -> None:
    q = torch.tensor([[-0.5, -0.9]], requires_grad=True)
    drawn, expected = torch.tensor([[0.3, torch.nan]]), torch.stack([q[:, 0], q[:, 1] * torch.nan], -1)
    mask = torch.tensor([[True, False]])
    loss = kb.kl_loss(
        q, torch.tensor([[-1.0, -1.0]]), mask, objective=kb.REVERSE_KL, baseline=kb.TokenValue(drawn, expected)
    )
    assert np.isfinite(loss.item())
