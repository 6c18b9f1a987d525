"""Ways to the gradient of the KL: each mean against the exact gradient, and variances against those of `kl_loss`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import kullback as kb
from kullback import lab
from kullback.lab import gradient_ways
from kullback.lab.gradient_ways import GRADIENT_WAYS, Gradients
from kullback.lab.variance_ways import DRAWS
from kullback.lab.variance_worlds import _world
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments


@cache
def in_torch(seed: int = 0, vocab: int = 3, horizon: int = 3) -> World:
    world = _world(vocab, horizon, 0.7, np.random.default_rng(seed))
    policy, reference = (torch.tensor(np.asarray(lm.logits)) for lm in (world.policy, world.reference))
    return World(*(TreeLM(x, eos=0, horizon=horizon) for x in (policy.requires_grad_(), reference)))


def at(seed: int = 0, vocab: int = 3, horizon: int = 3) -> Gradients:
    return Gradients(_world(vocab, horizon, 0.7, np.random.default_rng(seed)))


@pytest.mark.parametrize("way", GRADIENT_WAYS)
@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (5, 2)], ids=str)
def test_every_way_has_the_gradient_as_its_mean(way: str, shape: tuple[int, int]) -> None:
    for seed in range(2):
        wanted = exact_gradient(in_torch(seed, *shape), kb.REVERSE_KL).ravel()
        found = GRADIENT_WAYS[way](at(seed, *shape))
        assert np.abs(found.mean - wanted).max() < 1e-12
        assert found.variance > 0.0


def _moments(rows: int = 1, **options: Any) -> float:
    """Of `kl_loss`, over all batches; of as many rows."""

    def loss(q: Any, p: Any, mask: Any, token_kl: Any, log_distributions: Any, tokens: Any) -> Any:
        chosen = dict(options)
        if chosen.pop("exact", False):
            chosen["token_kl"] = token_kl
        if (critic := chosen.pop("critic", None)) is not None:
            row = next(i for i in range(len(CRITIC)) if torch.equal(q.detach(), LOGPROBS[i : i + 1]))
            chosen["baseline"] = kb.TokenValue.of(critic[row][None], log_distributions, tokens)
        return kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL, **chosen)

    return rows * loss_moments(in_torch(), loss, rows=rows).variance


LOGPROBS = torch.as_tensor(in_torch().policy.logprobs).detach()
CRITIC = torch.tensor(at().value[at().at.world.policy.places])


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("score to go", {}),
        ("Rao-Blackwell", {"exact": True}),
        ("Rao-Blackwell less the token value", {"exact": True, "critic": CRITIC}),
    ],
)
def test_variances_are_those_of_kl_loss(way: str, options: dict[str, Any]) -> None:
    assert GRADIENT_WAYS[way](at()).variance == pytest.approx(_moments(**options), rel=1e-9)


@pytest.mark.parametrize(
    ("way", "options"),
    [
        (f"… less the mean of {DRAWS - 1} others", {}),
        (f"Rao-Blackwell less {DRAWS - 1} others", {"exact": True}),
    ],
)
@pytest.mark.parametrize("rows", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_leave_one_out_is_that_of_every_batch(
    way: str, options: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_ways, "DRAWS", rows)
    found = GRADIENT_WAYS[way](at()).variance
    assert found == pytest.approx(_moments(rows, baseline="leave_one_out", **options), rel=1e-9)


def test_the_best_baselines_leave_least() -> None:
    for seed in range(4):
        one = at(seed, 4, 4)
        left = {name: way(one).variance for name, way in GRADIENT_WAYS.items()}
        value = left["Rao-Blackwell less the token value"]
        assert value < left["Rao-Blackwell less the value of the prefix"] < left["Rao-Blackwell"] < left["score to go"]
        assert left["… from 1,024"] < left["Rao-Blackwell"]


def test_the_table_of_gradients_has_every_way() -> None:
    found = lab.variance([0.5], vocab=3, horizon=3, worlds=2)
    assert [way.name for way in found.gradient_ways] == list(GRADIENT_WAYS)
    assert max(way.bias for way in found.gradient_ways) < 1e-10
    base = next(way for way in found.gradient_ways if way.name == "Rao-Blackwell")
    assert base.variance == base.worst == 1.0
    assert all(way.variance <= way.worst for way in found.gradient_ways)
