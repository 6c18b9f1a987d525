"""Every promise of every surrogate, for rows from the policy, from another policy and from the reference."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from laws import agree
from worlds import generic

import kullback as kb
from kullback.oracle import LossMoments, TreeLM, World, exact_gradient, loss_moments
from kullback.oracle.loss_gradients import world_columns
from kullback.surrogates import SURROGATES, BySampler, Surrogate, squared_about
from kullback.targets import TARGETS, Target

WORLDS = ((0, 1.0), (3, 0.7), (1, 12.0))
"""Seeds and scales of vocabulary 4, two tokens long; log-ratios of the last go beyond ±20, where clamps bind."""


@functools.cache
def world(sampler: str, seed: int, scale: float) -> World:
    q, p, horizon = generic(seed, scale, vocab=4, horizon=2)
    policy, reference = TreeLM(torch.tensor(q, requires_grad=True), 0, horizon), TreeLM(torch.tensor(p), 0, horizon)
    other = TreeLM(torch.tensor(generic(seed + 50, 1.0, vocab=4, horizon=2)[0]), 0, horizon)
    return World(policy, reference, {"on_policy": None, "off_policy": other, "from_reference": reference}[sampler])


@functools.cache
def got(name: str, sampler: str, seed: int, scale: float) -> LossMoments:
    fn = SURROGATES[name].fn
    if sampler == "on_policy":  # μ is the policy itself, which a trainer's first step detaches
        parameters = [n for n in inspect.signature(fn).parameters if n not in ("behavior_logprobs", "kernel")]
        fn = _without_behavior(fn, parameters)
    return loss_moments(world(sampler, seed, scale), fn)


def _without_behavior(fn: Any, parameters: list[str]) -> Any:
    def call(*args: Any, **columns: Any) -> Any:
        return fn(*args, **columns)

    names = [n for n in parameters if inspect.signature(fn).parameters[n].default is inspect.Parameter.empty]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    )
    return call


@functools.cache
def exact(kind: str, target: Target, sampler: str, seed: int, scale: float) -> Any:
    at = world(sampler, seed, scale)
    return float(target.exact(at).detach()) if kind == "value_of" else exact_gradient(at, target)


def delivered(kind: str, moments: LossMoments) -> Any:
    return moments.value if kind == "value_of" else moments.gradient


def hits(kind: str, surrogate: Surrogate, sampler: str) -> list[Target]:
    return [
        target
        for target in TARGETS
        if all(
            agree(delivered(kind, got(surrogate.name, sampler, *w)), exact(kind, target, sampler, *w)) for w in WORLDS
        )
    ]


def first_of(kind: str, found: list[Target]) -> Target | None:
    """The first of the targets that agree; others agree with it in every world of this sampler."""
    if not found:
        return None
    return (found[0].value_of or found[0]) if kind == "value_of" else found[0]


@pytest.mark.parametrize("sampler", BySampler.cases())
@pytest.mark.parametrize("kind", ["value_of", "gradient_of"])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_every_promise_holds_and_is_the_only_one(surrogate: Surrogate, kind: str, sampler: str) -> None:
    found = hits(kind, surrogate, sampler)
    assert first_of(kind, found) is canonical(getattr(surrogate, kind)[sampler], kind, sampler)


def canonical(target: Target | None, kind: str, sampler: str) -> Target | None:
    """The first target that is the same quantity for this sampler, such as statewise and sampled on-policy."""
    if target is None:
        return None
    same = [
        t for t in TARGETS if all(agree(exact(kind, t, sampler, *w), exact(kind, target, sampler, *w)) for w in WORLDS)
    ]
    return first_of(kind, same)


@pytest.mark.parametrize("kind", ["value_of", "gradient_of"])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_flipping_any_promise_is_caught(surrogate: Surrogate, kind: str) -> None:
    for sampler in BySampler.cases():
        kept = canonical(getattr(surrogate, kind)[sampler], kind, sampler)
        for other in (None, *TARGETS):
            if canonical(other, kind, sampler) is not kept:
                assert first_of(kind, hits(kind, surrogate, sampler)) is not canonical(other, kind, sampler)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_the_sign_promise_is_what_every_row_shows(surrogate: Surrogate) -> None:
    lowest = []
    for w in WORLDS:
        columns = world_columns(world("on_policy", *w))
        names = list(inspect.signature(surrogate.fn).parameters)[3:]
        further = {n: columns[n].detach() for n in names if n in columns and n != "behavior_logprobs"}
        rows = surrogate(*(columns[n].detach() for n in ("logprobs", "ref_logprobs", "mask")), **further)
        lowest.append(float(rows.min()))
    assert (min(lowest) >= -1e-12) == surrogate.nonnegative


@pytest.mark.parametrize(
    ("name", "slope"), [("k1_loss", 0.0), ("k2_loss", 1.386294), ("k3_loss", 1.875), ("k1_reward", 1.386294)]
)
def test_two_outcomes_by_hand(name: str, slope: float) -> None:
    """P = (.8, .2) against Q = (.5, .5), differentiated in P(first): 1.386294, 0, 1.386294 and 1.875."""
    logits = torch.tensor(np.log([[0.8, 0.2]]), requires_grad=True)
    at = World(TreeLM(logits, 0, 1), TreeLM(torch.zeros(1, 2, dtype=torch.float64), 0, 1))
    by_logit = loss_moments(at, SURROGATES[name].fn).gradient[0, 0]
    assert by_logit / (0.8 * 0.2) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("constant", [-2.0, 0.0, 0.5, 10.0])
def test_f_x_follows_the_reverse_kl_for_every_constant(constant: float) -> None:
    at = world("on_policy", 0, 1.0)
    found = loss_moments(at, functools.partial(squared_about, constant=constant)).gradient
    np.testing.assert_allclose(found, exact_gradient(at, kb.REVERSE_KL), rtol=1e-9, atol=1e-12)


def test_rao_blackwell_gradients_can_be_the_noisier_ones() -> None:
    """docs/theory.md: a world where the score-function gradient of k1 has 64 times less variance."""

    def tree(rows: list[list[float]], leaf: bool) -> TreeLM:
        logits = torch.tensor([[np.log(1 - b), np.log(b), -60.0] for b in (r[0] for r in rows)], requires_grad=leaf)
        return TreeLM(logits.double() if not leaf else logits, 2, 2)

    at = World(tree([[0.993], [0.0006], [0.0001]], True), tree([[0.02], [0.99], [0.03]], False))
    plain = loss_moments(at, SURROGATES["k1_reward"].fn).variance
    exact_rb = loss_moments(
        at, lambda q, p, mask, token_kl: kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL, token_kl=token_kl)
    ).variance
    # Published for one logit a prefix; a pair of softmax logits carries the same gradient twice.
    assert plain / 2 == pytest.approx(0.00225, rel=0.005)
    assert exact_rb / 2 == pytest.approx(0.1449, rel=0.005)
