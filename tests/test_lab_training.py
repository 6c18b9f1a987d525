"""The training problem: its optimum, its steps, and what its runs show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from kullback import lab
from kullback.errors import InputError
from kullback.lab.training_runs import ARMS, Problem


@pytest.fixture(scope="module")
def found_training() -> lab.Training:
    return lab.training([1.0], steps=400, seeds=4, seed=1)


def test_training_shows_which_kl_term_controls_the_kl(found_training: lab.Training) -> None:
    run = {run.arm: run for run in found_training.runs}
    wanted = run["no KL term"].best_kl
    for arm in ("no KL term", "k1 in the loss"):
        assert run[arm].kl > 5 * wanted
    assert run["k3 in the reward"].shortfall > 1  # worse than not having trained
    for arm in ("k1 in the reward", "kl_loss REVERSE_KL", "kl_loss Rao-Blackwell"):
        assert run[arm].kl == pytest.approx(wanted, rel=0.15)
        assert run[arm].shortfall < min(run["k2 in the loss"].shortfall, run["k3 in the loss"].shortfall)
    assert all(run.shortfall > -1e-9 for run in found_training.runs)


def test_the_optimum_of_training_is_the_free_energy() -> None:
    """max E[R] − β KL = β log E_p[exp(R/β)] (Gibbs), and no policy near it does better."""
    problem = Problem([0.7], 2, 1)
    whole, reward = problem.ref_logprobs.sum(-1).numpy(), problem.reward.numpy()
    best_reward, best_kl = problem.optimum(0.7)
    best = best_reward - 0.7 * best_kl
    assert best == pytest.approx(0.7 * logsumexp(whole + reward / 0.7), rel=1e-12)
    tilted = whole + reward / 0.7
    for noise in 0.1 * np.random.default_rng(0).normal(size=(20, len(whole))):
        q = tilted + noise - logsumexp(tilted + noise)
        assert np.exp(q) @ (reward - 0.7 * (q - whole)) < best


def test_training_steps_follow_the_exact_gradients() -> None:
    """The expected step of k1 in the reward, and of kl_loss, is ∇KL(q‖p); Monte Carlo over many samples."""
    problem = Problem([1.0], 4_000, 1)
    table = problem.reference + 0.8 * torch.randn(problem.reference.shape, generator=torch.Generator().manual_seed(0))
    table = table[None].log_softmax(-1).double().requires_grad_()
    logprobs = table.log_softmax(-1)
    everything = problem._read(logprobs)
    whole = everything.sum(-1)
    exact = (whole.exp() * (whole - problem.ref_logprobs.sum(-1))).sum()
    (want,) = torch.autograd.grad(exact, table, retain_graph=True)
    batch, _ = problem._sampled(logprobs, everything, whole.detach(), torch.Generator().manual_seed(1))
    arms = {arm.name: arm for arm in ARMS}
    for name in ("k1 in the reward", "kl_loss REVERSE_KL", "kl_loss Rao-Blackwell"):
        (got,) = torch.autograd.grad(arms[name].penalty(batch).mean(), table, retain_graph=True)
        assert float((got - want).norm() / want.norm()) < 0.15, name
    (own,) = torch.autograd.grad(arms["k2 in the loss"].penalty(batch).mean(), table, retain_graph=True)
    assert float((own - want).norm() / want.norm()) > 0.2


def test_training_refuses_what_cannot_be_trained() -> None:
    for arguments in ({"betas": []}, {"betas": [0.0]}, {"samples": 1}, {"seeds": 0}, {"steps": 10}):
        with pytest.raises(InputError, match="are needed"):
            lab.training(**arguments)  # type: ignore[arg-type]
