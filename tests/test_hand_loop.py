"""The KL term of a hand-written loop: its gradient over many batches is the exact one, in every epoch of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from worlds import generic

import kullback as kb
from kullback.oracle import TreeLM, World, exact_gradient
from kullback.oracle.loss_gradients import torch_columns

BATCHES, ROWS, EPOCHS = 200, 64, 3
TERMS: dict[str, Callable[[dict[str, torch.Tensor]], torch.Tensor]] = {
    "k1": lambda c: kb.kl_loss(**c, objective=kb.REVERSE_KL),
    "rao_blackwell": lambda c: kb.kl_loss(**c, objective=kb.REVERSE_KL, estimator=kb.RAO_BLACKWELL),
    "leave one out": lambda c: kb.kl_loss(**c, objective=kb.REVERSE_KL, baseline="leave_one_out"),
}


def stock(columns: dict[str, torch.Tensor]) -> torch.Tensor:
    """Trainers' own term: k3 of every token, in the loss, and nothing for what the batch was drawn from."""
    x = columns["ref_logprobs"] - columns["logprobs"]
    return torch.where(columns["mask"], x.exp() - 1 - x, 0.0).sum(1).mean()


@cache
def epoch(number: int) -> tuple[World, torch.Tensor]:
    """The policy of an epoch beside the one that drew the batch, as a world; and its logits."""
    drew, p, horizon = generic(seed=3, scale=0.8)
    step = 0.25 * np.random.default_rng(7).normal(size=drew.shape)
    logits = torch.tensor(drew + number * step, requires_grad=True)
    sampler = TreeLM(torch.tensor(drew), 0, horizon) if number else None
    return World(TreeLM(logits, 0, horizon), TreeLM(torch.tensor(p), 0, horizon), sampler), logits


def gradients(term: Callable[[dict[str, torch.Tensor]], torch.Tensor], number: int) -> np.ndarray:
    """Of each batch, (batches, logits)."""
    world, logits = epoch(number)
    whole = torch_columns(world)
    names = ("logprobs", "ref_logprobs", "mask", "token_kl", *(("behavior_logprobs",) if number else ()))
    chance = world.probability.detach().numpy()
    rng = np.random.default_rng(11)
    found = []
    for _ in range(BATCHES):
        rows = torch.tensor(rng.choice(len(chance), size=ROWS, p=chance / chance.sum()))
        loss = term({name: whole[name][rows] for name in names})
        found.append(torch.autograd.grad(loss, logits, retain_graph=True)[0].numpy().ravel())
    return np.array(found)


def worst(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """The share of the exact gradient, and χ² about it a direction (principal ones of what batches vary in)."""
    mean, apart = found.mean(0), found - found.mean(0)
    _, sizes, directions = np.linalg.svd(apart, full_matrices=False)
    kept = sizes > 1e-6 * sizes[0]
    errors = sizes[kept] / np.sqrt(BATCHES * (BATCHES - 1))
    z = (directions[kept] @ (mean - exact)) / errors
    return float(mean @ exact / (exact @ exact)), float((z**2).mean())


@pytest.mark.parametrize("number", range(EPOCHS))
@pytest.mark.parametrize("name", TERMS)
def test_the_accumulated_gradient_is_the_exact_one(name: str, number: int) -> None:
    world, _ = epoch(number)
    share, squares = worst(gradients(TERMS[name], number), exact_gradient(world, kb.REVERSE_KL).ravel())
    assert abs(share - 1) < 0.1
    assert squares < 2.0  # of some twenty directions: 1 ± 0.3 if it is exact


@pytest.mark.parametrize("number", range(EPOCHS))
def test_the_stock_term_follows_another(number: int) -> None:
    """Its share of the exact gradient is 0.28, and what is wrong with it is longer than that gradient."""
    world, _ = epoch(number)
    exact, found = exact_gradient(world, kb.REVERSE_KL).ravel(), gradients(stock, number)
    mean, error = found.mean(0), found.std(0).max() / BATCHES**0.5
    share, off = float(mean @ exact / (exact @ exact)), float(np.linalg.norm(mean - exact) / np.linalg.norm(exact))
    print(f"epoch {number + 1}: share of the exact gradient {share:.2f}, off by {off:.0%}")
    assert share < 0.5
    assert off > 0.5
    assert np.abs(mean - exact).max() > 10 * error
