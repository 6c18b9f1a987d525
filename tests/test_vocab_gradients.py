"""Gradients of vocab.token_kl and vocab.token_logprobs: right, refused twice, the same however they are called."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from vocab_truth import (
    COMPILER_WARNINGS,
    TOKENS,
    WAYS,
    close_pair,
    every_backend,
    every_dtype,
    every_way,
    ids,
    one_of,
    small_blocks,  # noqa: F401 — a fixture of every test here
    with_gradients,
)
from worlds import generic

import kullback as kb
from kullback import vocab
from kullback.errors import KullbackError
from kullback.oracle import TreeLM, World, exact_gradient, loss_moments

pytestmark = COMPILER_WARNINGS


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


@pytest.mark.slow
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
